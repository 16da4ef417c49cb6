"""The embedded default: deterministic, the same at every size, captioned truly, and worth learning."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from vae_ldm.data.rendered_claims import CLASS_NAMES, render_claim
from vae_ldm.errors import DataError


def pixels(seed: int, image_size: tuple[int, int] = (32, 32), label: int | None = None) -> np.ndarray:
    return np.asarray(render_claim(seed, label=label, image_size=image_size).image, np.float32)


def test_a_seed_is_one_picture_in_every_process() -> None:
    program = (
        "import hashlib; from vae_ldm.data.rendered_claims import render_claim\n"
        "claims = [render_claim(seed) for seed in range(26)]\n"
        "print(hashlib.sha256(b''.join(c.image.tobytes() + c.caption.encode() for c in claims)).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    claims = [render_claim(seed) for seed in range(26)]
    here = hashlib.sha256(b"".join(c.image.tobytes() + c.caption.encode() for c in claims)).hexdigest()
    assert here == there
    assert len({claim.image.tobytes() for claim in claims}) == 26


def test_every_class_is_drawn_about_equally_often() -> None:
    labels = [render_claim(seed, image_size=(8, 8)).label for seed in range(650)]
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    assert len(counts) == 13
    assert counts.min() >= 25  # 50 are expected
    assert counts.max() <= 80


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)))
def test_the_scene_is_the_same_at_every_size(label: int) -> None:
    large = render_claim(label, label=label, image_size=(128, 128))
    small = pixels(label, (64, 64), label)
    assert np.abs(np.asarray(large.image.reduce(2), np.float32) - small).mean() < 7
    assert large.caption == render_claim(label, label=label, image_size=(64, 64)).caption
    assert np.abs(pixels(label + 100, (64, 64), label) - small).mean() > 14


@pytest.mark.parametrize("image_size", [(24, 40), (40, 24), (33, 65)])
def test_the_object_stays_whole_and_central_in_other_shapes(image_size: tuple[int, int]) -> None:
    height, width = image_size
    side = min(image_size)
    for label in range(len(CLASS_NAMES)):
        picture = pixels(7, image_size, label)
        assert picture.shape == (height, width, 3)
        top, left = (height - side) // 2, (width - side) // 2
        middle = picture[top : top + side, left : left + side]
        assert np.abs(middle - pixels(7, (side, side), label)).mean() < 7


def test_captions_say_the_class_in_lower_case_and_vary() -> None:
    claims = [render_claim(seed, image_size=(8, 8)) for seed in range(300)]
    for claim in claims:
        assert set(CLASS_NAMES[claim.label].split()) <= set(claim.caption.split())
        assert claim.caption == claim.caption.lower().strip()
        assert "  " not in claim.caption
    assert len({claim.caption for claim in claims}) > 200


@pytest.mark.parametrize(
    "label", [k for k, name in enumerate(CLASS_NAMES) if not name.startswith(("good", "shipping"))]
)
def test_damage_is_bold_and_leaves_the_rest_of_the_scene_alone(label: int) -> None:
    good = label - label % 4
    for seed in range(8):
        change = np.abs(pixels(seed, label=label) - pixels(seed, label=good)).max(axis=-1)
        assert (change > 40).mean() > 0.03, seed
        assert np.median(change) < 10, seed


@pytest.mark.parametrize("label", [-1, 13])
def test_a_class_that_does_not_exist_is_refused(label: int) -> None:
    with pytest.raises(DataError, match=f"no class {label}"):
        render_claim(0, label=label)


def test_a_linear_classifier_is_far_above_chance() -> None:
    """Ridge regression on pixels names about 70 % (chance: 8 %); a small CNN names all."""

    def batch(seeds: range) -> tuple[np.ndarray, np.ndarray]:
        claims = [render_claim(seed, image_size=(16, 16)) for seed in seeds]
        images = np.stack([np.asarray(claim.image, np.float32).ravel() / 127.5 - 1 for claim in claims])
        return np.column_stack([images, np.ones(len(images))]), np.array([claim.label for claim in claims])

    train, train_labels = batch(range(1040))
    held_out, labels = batch(range(10_000, 10_260))
    targets = np.eye(len(CLASS_NAMES))[train_labels]
    weights = np.linalg.solve(train.T @ train + 30 * np.eye(train.shape[1]), train.T @ targets)
    guesses = (held_out @ weights).argmax(axis=1)
    assert (guesses == labels).mean() > 0.5
    assert (guesses // 4 == labels // 4).mean() > 0.85  # the object, whatever its condition
