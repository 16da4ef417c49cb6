import numpy as np
import pytest

from vae_ldm.lesson.patches import (
    CAMERA_NOISE,
    DAMAGED_KINDS,
    KINDS,
    NUM_PIXELS,
    draw_patch,
    draw_patches,
    four_patches,
)


def test_patches_are_grey_values_of_every_kind_alike():
    patches = draw_patches(1000, seed=0)
    assert patches.pixels.shape == (1000, NUM_PIXELS)
    assert patches.pixels.dtype == np.float64
    assert patches.pixels.min() >= 0
    assert patches.pixels.max() <= 1
    assert np.bincount(patches.kinds).tolist() == [200] * len(KINDS)
    assert (patches.kinds[:5] != np.arange(5)).any(), "kinds are mixed"


def test_a_seed_draws_the_same_patches_again_and_another_draws_others():
    first, again, other = (draw_patches(50, seed=seed).pixels for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.1


def test_without_noise_they_are_the_clean_patches_behind():
    noisy, clean = draw_patches(2000, seed=5), draw_patches(2000, seed=5, noise=0)
    np.testing.assert_array_equal(noisy.kinds, clean.kinds)
    difference = (noisy.pixels - clean.pixels)[(clean.pixels > 0.2) & (clean.pixels < 0.8)]
    assert difference.mean() == pytest.approx(0, abs=1e-3)
    assert difference.std() == pytest.approx(CAMERA_NOISE, rel=0.02)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "paper"])
def test_place_moves_it_and_strength_makes_it_stand_out(kind):
    here = draw_patch(kind, place=-0.5, strength=0.8)
    assert np.abs(here - draw_patch(kind, place=0.5, strength=0.8)).max() > 0.1
    assert here.std() < draw_patch(kind, place=-0.5, strength=1.0).std()


def test_four_patches_two_clean_and_two_damaged():
    four = four_patches()
    assert [KINDS[kind] for kind in four.kinds] == ["print", "edge", "crack", "dent"]
    assert [KINDS[kind] in DAMAGED_KINDS for kind in four.kinds] == [False, False, True, True]
    np.testing.assert_array_equal(four.pixels, four.pixels.round(2))
    assert not any((patch == four.pixels).all(axis=1).any() for patch in draw_patches(500, seed=0).pixels)
