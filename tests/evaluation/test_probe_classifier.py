import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vae_ldm.choices import Detail
from vae_ldm.evaluation.probe_classifier import ProbeClassifier, degrade
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.models.vision_features import VisionFeatures


def agreement(probe: ProbeClassifier, pictures: np.ndarray, labels: np.ndarray) -> float:
    return probe.agrees(pictures, torch.from_numpy(labels)).float().mean().item()


def test_where_memory_runs_out_fewer_pictures_are_looked_at_at_once(features, make_pictures, monkeypatch) -> None:
    train, labels = make_pictures(40, seed=0)
    whole = ProbeClassifier.fit(train, labels, 4, features=features, seed=0, max_steps=5)
    expected, stages, sizes = whole.probabilities(train), features.stages, []

    def room_for_ten(images: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(images))
        if len(images) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stages(images)

    monkeypatch.setattr(features, "stages", room_for_ten)
    torch.testing.assert_close(whole.probabilities(train), expected)
    assert sizes == [40, 20, 10, 10, 10, 10]
    halved = ProbeClassifier.fit(train, labels, 4, features=features, seed=0, max_steps=5)
    torch.testing.assert_close(halved.head.weight, whole.head.weight)


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((24, 40), 1)])
def test_it_learns_what_pictures_show_and_forgives_softness(
    features: VisionFeatures, make_pictures, size: tuple[int, int], channels: int
) -> None:
    train, labels = make_pictures(160, seed=0, size=size, channels=channels)
    probe = ProbeClassifier.fit(train, labels, 4, features=features, seed=0, max_steps=200)
    held_out, truth = make_pictures(80, seed=1, size=size, channels=channels)
    assert agreement(probe, held_out, truth) > 0.95
    soft = F.interpolate(F.interpolate(as_images(held_out), scale_factor=0.6, mode="bilinear", antialias=True), size)
    assert agreement(probe, as_pictures(soft), truth) > 0.9
    assert agreement(probe, held_out, (truth + 1) % 4) < 0.05
    assert agreement(probe, np.full_like(held_out, 128), truth) < 0.6


def test_rare_classes_count_as_much_and_unlabelled_pictures_not_at_all(features: VisionFeatures, make_pictures) -> None:
    train, labels = make_pictures(240, seed=0)
    kept = np.flatnonzero((labels != 2) | (np.arange(240) % 10 == 0))
    train, labels = train[kept], labels[kept]
    labels[::7] = -1
    assert 2 <= (labels == 2).sum() <= 10
    probe = ProbeClassifier.fit(train, labels, 4, features=features, seed=0, max_steps=200)
    held_out, truth = make_pictures(80, seed=1)
    rare = truth == 2
    assert agreement(probe, held_out[rare], truth[rare]) > 0.8


def test_the_seed_decides(features: VisionFeatures, make_pictures) -> None:
    train, labels = make_pictures(40, seed=0)
    first, again, other = (
        ProbeClassifier.fit(train, labels, 4, features=features, seed=seed, max_images=30, max_steps=5).head.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_degraded_copies_stay_the_same_picture() -> None:
    x = torch.linspace(-0.8, 0.8, 40).expand(64, 1, 24, 40).contiguous()
    generator = torch.Generator().manual_seed(0)
    plain = degrade(x, generator, flips=False)
    assert plain.shape == x.shape
    assert (plain - x).abs().mean() < 0.08
    mirrored = degrade(x, generator, flips=True)
    falling = mirrored[..., 0].mean(dim=(1, 2)) > mirrored[..., -1].mean(dim=(1, 2))
    assert 16 < falling.sum() < 48


@pytest.mark.slow
@pytest.mark.parametrize(("detail", "side"), [("plain", 32), ("fine", 64)])
def test_it_tells_rendered_claims_apart(features: VisionFeatures, detail: Detail, side: int) -> None:
    """The judge of the embedded default must be surer than the 80 % it has to certify."""
    from vae_ldm.data.rendered_claims import CLASS_NAMES, render_claim

    def claims(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [render_claim(first + i, image_size=(side, side), detail=detail) for i in range(count)]
        return np.stack([np.asarray(claim.image) for claim in drawn]), np.array([claim.label for claim in drawn])

    train, labels = claims(0, 900)
    probe = ProbeClassifier.fit(train, labels, len(CLASS_NAMES), features=features, seed=0)
    held_out, truth = claims(10**6, 200)
    assert agreement(probe, held_out, truth) >= 0.97
