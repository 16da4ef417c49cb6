"""Made damage: only where its mask says, the same for the same seed, in both directions, on any photo."""

import numpy as np
import pytest

from vae_ldm.data.made_damage import KINDS, DamageKind, make_damage
from vae_ldm.data.made_damage.kinds import _PAINTERS
from vae_ldm.data.made_damage.shapes import band, blob, perlin_mask, perlin_noise, rectangle

WHOLE_PHOTO: set[DamageKind] = {"shading", "blur", "noise", "photometric"}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def busy_photo(size: tuple[int, int] = (48, 64), channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise of medium grey in coarse blocks, so that every pixel has neighbours unlike it and room to change."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(70, 186, (size[0] // 4 + 1, size[1] // 4 + 1, channels), dtype=np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)[: size[0], : size[1]]


@EVERY_KIND
@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_damage_lies_where_its_mask_says(kind: DamageKind, strength: float) -> None:
    photo, before = busy_photo(), busy_photo()
    for seed in range(5):
        made = make_damage(photo, kind, np.random.default_rng(seed), strength=strength, other=busy_photo(seed=9))
        changed = (made.image != photo).any(axis=2)
        assert made.mask.dtype == bool
        assert made.image.dtype == np.uint8
        assert made.image.shape == photo.shape
        assert not changed[~made.mask].any()
        assert made.mask.any()
    assert (photo == before).all()


@EVERY_KIND
def test_most_of_what_a_mask_says_is_changed(kind: DamageKind) -> None:
    shares = []
    for seed in range(20):
        photo = busy_photo(seed=seed)
        made = make_damage(
            photo, kind, np.random.default_rng(seed), strength=0.6, other=busy_photo((30, 20), seed=seed + 50)
        )
        shares.append((made.image != photo).any(axis=2)[made.mask].mean())
    assert np.mean(shares) > 0.7


@EVERY_KIND
def test_local_damage_leaves_most_of_a_photo_alone(kind: DamageKind) -> None:
    photo = busy_photo()
    masks = [
        make_damage(photo, kind, np.random.default_rng(seed), strength=0.5, other=busy_photo(seed=9)).mask
        for seed in range(20)
    ]
    if kind in WHOLE_PHOTO:
        assert all(mask.all() for mask in masks)
    else:
        assert 0.005 < np.mean(masks) < 0.6


@EVERY_KIND
def test_the_same_seed_makes_the_same_damage_and_another_seed_another(kind: DamageKind) -> None:
    photo, other = busy_photo(), busy_photo(seed=9)
    first, again, another = (
        make_damage(photo, kind, np.random.default_rng(seed), strength=0.5, other=other) for seed in (3, 3, 4)
    )
    assert (first.image == again.image).all()
    assert (first.mask == again.mask).all()
    assert (first.image != another.image).any()


@EVERY_KIND
def test_damage_grows_with_its_strength_from_nothing(kind: DamageKind) -> None:
    photo, other = busy_photo(), busy_photo(seed=9)

    def mean_change(strength: float) -> float:
        made = [
            make_damage(photo, kind, np.random.default_rng(seed), strength=strength, other=other) for seed in range(30)
        ]
        return float(np.mean([np.abs(each.image.astype(float) - photo).mean() for each in made]))

    changes = [mean_change(strength) for strength in (0, 0.1, 0.4, 1)]
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[1] > 0
    assert changes[3] > 2 * changes[1]


@EVERY_KIND
def test_no_damage_has_no_mask(kind: DamageKind) -> None:
    made = make_damage(busy_photo(), kind, np.random.default_rng(0), strength=0, other=busy_photo(seed=9))
    assert not made.mask.any()


@EVERY_KIND
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (24, 40), (97, 33)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_any_channels(kind: DamageKind, size: tuple[int, int], channels: int) -> None:
    photo = busy_photo(size, channels)
    for other_channels in (1, 3, 4):
        other = busy_photo((5, 9), other_channels, seed=9)
        made = make_damage(photo, kind, np.random.default_rng(0), strength=0.7, other=other)
        assert made.image.shape == photo.shape
        assert made.mask.shape == size
        assert not (made.image != photo).any(axis=2)[~made.mask].any()
        if channels == 4:
            assert (made.image[..., 3] == photo[..., 3]).all()


@pytest.mark.parametrize("kind", ["spot", "shadow", "photometric"])
def test_light_goes_both_ways(kind: DamageKind) -> None:
    photo = busy_photo()
    means = [
        make_damage(photo, kind, np.random.default_rng(seed), strength=0.8, other=photo).image.mean() - photo.mean()
        for seed in range(40)
    ]
    assert min(means) < 0 < max(means)
    assert 5 <= sum(mean > 0 for mean in means) <= 35


def roughness(image: np.ndarray) -> float:
    """Mean step between neighbours in a row."""
    return float(np.abs(np.diff(image.astype(float), axis=1)).mean())


@pytest.mark.parametrize(("kind", "rougher"), [("blur", False), ("smoothed", False), ("noise", True)])
def test_detail_is_lost_and_won(kind: DamageKind, rougher: bool) -> None:
    photo = busy_photo()
    for seed in range(5):
        made = make_damage(photo, kind, np.random.default_rng(seed), strength=0.8, other=photo)
        assert (roughness(made.image) > roughness(photo)) == rougher


def test_shading_keeps_the_mean_and_the_detail() -> None:
    photo = busy_photo((64, 64))
    for seed in range(5):
        made = make_damage(photo, "shading", np.random.default_rng(seed), strength=0.1, other=photo)
        assert abs(made.image.mean() - photo.mean()) < 2
        assert roughness(made.image) == pytest.approx(roughness(photo), rel=0.1)


def test_an_insertion_shows_the_other_photo() -> None:
    photo, other = np.full((40, 40, 3), 100, np.uint8), busy_photo((40, 40), seed=5)
    made = make_damage(photo, "insertion", np.random.default_rng(1), strength=1, other=other)
    inside = made.image.std(axis=2)[made.mask]
    assert inside.mean() > 5
    assert (made.image[~made.mask] == 100).all()


def test_cut_paste_shows_the_photo_itself() -> None:
    photo, other = busy_photo(), np.zeros((8, 8, 3), np.uint8)
    made = make_damage(photo, "cut_paste", np.random.default_rng(0), strength=0.6, other=other)
    again = make_damage(photo, "cut_paste", np.random.default_rng(0), strength=0.6, other=busy_photo(seed=3))
    assert (made.image == again.image).all()


def test_edges_are_sharp_or_soft() -> None:
    """Sharp: all painted places lie in one rectangle and are painted alike. Soft: at the edge the paint is thinner."""
    photo, other = np.full((40, 60, 1), 200, np.uint8), np.zeros((8, 8, 1), np.uint8)
    num_shades = []
    for seed in range(40):
        made = make_damage(photo, "shadow", np.random.default_rng(seed), strength=0.4, other=other)
        num_shades.append(len(np.unique(made.image[made.mask])))
    sharp = sum(number == 1 for number in num_shades)
    assert 10 <= sharp <= 30
    assert max(num_shades) > 5


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_damage(busy_photo(), "blur", np.random.default_rng(0), strength=strength, other=busy_photo())


def test_every_kind_has_a_painter() -> None:
    assert tuple(_PAINTERS) == KINDS


def test_shapes_hold_the_share_that_they_are_asked_for() -> None:
    size, share = (60, 80), 0.1
    draws = range(200)
    masks = [perlin_mask(np.random.default_rng(seed), size, share).mean() for seed in draws]
    assert np.allclose(masks, share, atol=0.01)
    areas = []
    for seed in draws:
        rows, columns = rectangle(np.random.default_rng(seed), size, share)
        assert 0 <= rows.start < rows.stop <= size[0]
        assert 0 <= columns.start < columns.stop <= size[1]
        areas.append((rows.stop - rows.start) * (columns.stop - columns.start) / (size[0] * size[1]))
    assert np.mean(areas) == pytest.approx(share, rel=0.05)
    # A blob's middle may lie anywhere, so part of it often lies outside the photo.
    blobs = [blob(np.random.default_rng(seed), size, share, softness=0).mean() for seed in draws]
    assert 0.5 * share < np.mean(blobs) < share
    assert max(blobs) == pytest.approx(share, rel=0.1)
    bands = [band(np.random.default_rng(seed), size, share, softness=0).mean() for seed in draws]
    assert 0.4 * share < np.mean(bands) < 2 * share


def test_perlin_noise_is_smooth_within_its_cells_and_crosses_zero_at_their_corners() -> None:
    noise = perlin_noise(np.random.default_rng(0), (128, 128), (4, 4))
    assert np.abs(noise).max() <= 1
    assert np.abs(np.diff(noise, axis=0)).max() < 0.12
    corners = noise[31::32, 31::32]
    assert np.abs(corners).max() < 0.05
    assert noise.std() > 0.2
