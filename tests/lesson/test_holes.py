import numpy as np
import pytest

from vae_ldm.lesson.holes import REAL_SHARE, DrawScore, HoleMeter, distance_to_nearest
from vae_ldm.lesson.patches import NUM_PIXELS, Patches, draw_patches


def test_distance_to_nearest_agrees_with_all_distances():
    rng = np.random.default_rng(0)
    some, others = rng.uniform(size=(7, NUM_PIXELS)), rng.uniform(size=(9, NUM_PIXELS))
    all_distances = np.sqrt(((some[:, None] - others) ** 2).mean(axis=-1))
    np.testing.assert_allclose(distance_to_nearest(some, others), all_distances.min(axis=1))
    np.testing.assert_allclose(distance_to_nearest(some, some), 0, atol=1e-7)


def test_the_threshold_is_taken_from_real_validation_patches(material):
    looks_real = material.meter.looks_real(material.validation.pixels)
    assert looks_real.mean() == pytest.approx(REAL_SHARE, abs=0.005)
    assert material.meter.looks_real(draw_patches(500, seed=9).pixels).mean() == pytest.approx(REAL_SHARE, abs=0.04)


@pytest.mark.parametrize("what", ["noise", "inverted", "mean"])
def test_what_is_no_patch_does_not_look_real(what, material):
    real = material.validation.pixels
    fake = {
        "noise": np.random.default_rng(0).uniform(size=real.shape),
        "inverted": 1 - real[material.validation.kinds != 0],
        "mean": material.train.pixels.mean(axis=0, keepdims=True),
    }[what]
    assert material.meter.looks_real(fake).mean() < 0.1


def test_coverage_sees_a_decoder_that_always_gives_the_same_good_patch():
    def patches(*greys):
        return Patches(np.repeat(np.array(greys), NUM_PIXELS).reshape(-1, NUM_PIXELS), np.zeros(len(greys), int))

    meter = HoleMeter(patches(0.1, 0.4, 0.7), patches(0.12, 0.42, 0.72, 0.11))
    one = np.full((50, NUM_PIXELS), 0.095)  # near the first training patch and the last validation patch
    assert meter.threshold == pytest.approx(0.02)
    assert meter.score(one) == DrawScore(real=1.0, coverage=0.25)
    assert meter.score(np.concatenate([one, one + 0.5])) == DrawScore(real=0.5, coverage=0.25)
