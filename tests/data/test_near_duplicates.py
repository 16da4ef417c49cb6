"""Near-duplicates among drawn pictures: one saved again, resized, cropped, brightened; others; flat ones; noise."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_ldm.data.decoding import decode_whole
from vae_ldm.data.near_duplicates import (
    aligned_correlation,
    connect_groups,
    difference_hash,
    duplicate_thumbnail,
    group_near_duplicates,
    numbered_groups,
)
from vae_ldm.data.photo_records import photo_records


def drawn(seed: int, side: int = 192) -> np.ndarray:
    """A picture of soft fields and a few sharp boxes: uint8 [side, side, 3]."""
    generator = np.random.default_rng(seed)
    fields = Image.fromarray(generator.integers(60, 200, (6, 6, 3), dtype=np.uint8))
    picture = np.asarray(fields.resize((side, side), Image.Resampling.BICUBIC)).copy()
    for _ in range(6):
        top, left = generator.integers(0, side - 40, 2)
        picture[top : top + 40, left : left + 25] = generator.integers(0, 256, 3)
    return picture


def changed(picture: np.ndarray, change: str) -> np.ndarray:
    image, (height, width) = Image.fromarray(picture), picture.shape[:2]
    cut = round(0.02 * width)
    if change == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=30)
        image = Image.open(file)
    elif change == "half":
        image = image.resize((width // 2, height // 2))
    elif change == "crop of the left and the top":
        image = image.crop((cut, cut, width, height))
    elif change == "crop of all sides":
        image = image.crop((cut // 2, cut // 2, width - cut // 2, height - cut // 2))
    elif change == "grey with alpha":
        image = image.convert("RGBA")
    else:
        image = image.point(lambda level: level * (1.1 if change == "brighter" else 0.9))
    return np.asarray(image)


def groups(pictures: list[np.ndarray], **options: float) -> list[int]:
    hashes = np.array([difference_hash(picture) for picture in pictures])
    thumbnails = np.stack([duplicate_thumbnail(picture) for picture in pictures])
    return group_near_duplicates(hashes, thumbnails, **options).tolist()


@pytest.mark.parametrize(
    "change",
    ["jpeg", "half", "crop of the left and the top", "crop of all sides", "brighter", "darker", "grey with alpha"],
)
def test_a_changed_copy_is_in_the_group_of_its_picture(change):
    pictures = [drawn(seed) for seed in range(8)]
    copies = [changed(picture, change) for picture in pictures]
    assert groups(pictures + copies) == [*range(8), *range(8)]


def test_the_hash_by_hand():
    falling = np.linspace(255, 0, 90).round().astype(np.uint8)[None, :, None].repeat(80, axis=0)
    assert difference_hash(falling) == 0
    assert difference_hash(falling[:, ::-1]) == np.uint64(2**64 - 1)
    assert difference_hash(np.full((5, 3, 1), 9, dtype=np.uint8)) == 0


def test_flat_pictures_are_no_duplicates_of_each_other_and_noise_is_none_of_other_noise():
    generator = np.random.default_rng(0)
    flat = [np.full((64, 48, 3), level, dtype=np.uint8) for level in (0, 128, 255, 255)]
    nearly = [np.full((64, 48, 1), 250, dtype=np.uint8) - generator.integers(0, 3, (64, 48, 1), dtype=np.uint8)] * 2
    noise = [generator.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
    pictures = flat + nearly + noise
    assert groups(pictures) == list(range(len(pictures)))
    assert groups(pictures, max_distance=64) == list(range(len(pictures)))


def test_the_colour_counts():
    picture = drawn(0)
    assert groups([picture, picture[..., ::-1], picture]) == [0, 1, 0]


def test_photos_of_one_scene_with_other_things_in_it_are_different():
    scenes = [np.full((192, 192, 3), 200, dtype=np.uint8) for _ in range(12)]
    for seed, scene in enumerate(scenes):
        scene[40:160, 60:130] = 90
        thing = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), dtype=np.uint8)
        scene[52:148, 64:124] = np.asarray(Image.fromarray(thing).resize((60, 96), Image.Resampling.NEAREST))
    assert groups(scenes) == list(range(12))


def test_every_photo_of_a_chain_is_in_one_group_and_the_limit_decides():
    steps = [drawn(0, 200)[:, shift : shift + 160] for shift in range(0, 16, 2)]
    hashes = np.array([difference_hash(step) for step in steps])
    thumbnails = np.stack([duplicate_thumbnail(step) for step in steps])
    ends = aligned_correlation(thumbnails[:1], thumbnails[-1:])[0]
    near = aligned_correlation(thumbnails[:-1], thumbnails[1:]).min()
    assert ends < near
    limit = (ends + near) / 2
    assert group_near_duplicates(hashes, thumbnails, max_distance=64, min_correlation=limit).tolist() == [0] * 8


def test_a_negative_is_not_alike():
    picture = drawn(1)
    pair = [duplicate_thumbnail(picture)[None], duplicate_thumbnail(255 - picture)[None]]
    assert aligned_correlation(*pair).tolist() == [0]


def test_blocks_do_not_show():
    generator = np.random.default_rng(0)
    kinds = [drawn(seed, 64) for seed in range(30)]
    chosen = generator.integers(0, 30, 700)
    hashes = np.array([difference_hash(kind) for kind in kinds])[chosen]
    thumbnails = np.stack([duplicate_thumbnail(kind) for kind in kinds])[chosen]
    assert group_near_duplicates(hashes, thumbnails).tolist() == numbered_groups(chosen).tolist()


def test_no_photo_and_one_photo():
    assert group_near_duplicates(np.zeros(0, np.uint64), np.zeros((0, 32, 32, 3), np.uint8)).shape == (0,)
    assert groups([drawn(0)]) == [0]


def test_connected_groups_are_those_of_one_union_after_the_other():
    generator = np.random.default_rng(0)
    for num_pairs in (0, 1, 20, 60, 200):
        first, second = generator.integers(0, 100, (2, num_pairs))
        expected = np.arange(100)
        for one, other in zip(first, second, strict=True):
            names = expected[[one, other]]
            expected[np.isin(expected, names)] = names.min()
        found = connect_groups(np.arange(100), first, second)
        assert found.tolist() == expected.tolist()
        half = num_pairs // 2
        in_parts = connect_groups(connect_groups(np.arange(100), first[:half], second[:half]), first, second)
        assert in_parts.tolist() == expected.tolist()


@pytest.mark.pack
def test_the_validation_photos_of_damage_cans_that_lie_near_a_training_photo_are_found():
    pack = Path(__file__).parents[3] / "shared/data/damage_cans"
    if not pack.is_dir():
        pytest.skip("no photo pack beside the checkout")
    records = photo_records(pack)
    found = np.array(groups([decode_whole(record.picture) for record in records]))
    trains = np.array([record.id.startswith("train/") for record in records])
    assert np.isin(found[~trains], found[trains]).sum() >= 9
    assert np.bincount(found).max() < 10
    labels = np.array([record.label for record in records])
    assert len(set(zip(found, labels, strict=True))) == found.max() + 1
