"""What a latent tells of a factor: models whose answer is known, and the VAEs of the lesson."""

import numpy as np
import pytest

from vae_ldm.lesson.disentanglement import (
    changed_by,
    information_told,
    mutual_information_gap,
    vaes_of_print,
)
from vae_ldm.lesson.patches import KINDS, NUM_LEVELS, draw_factor_grid, draw_patch
from vae_ldm.lesson.vae import Vae

GRID = draw_factor_grid(("print",))


class Knowing(Vae):
    """Latents that are given numbers of each patch of the grid, with one spread."""

    def __init__(self, first, second, std):
        super().__init__(beta=0.0, seed=0)
        self.means, self.std = np.stack([first, second], axis=1).astype(float), std

    def encode(self, pixels):
        return self.means, np.full(self.means.shape, 2 * np.log(self.std))


def told_by(first, second, std=0.01):
    return information_told(Knowing(first, second, std), GRID)


PLACE, STRENGTH = GRID.factors["place"], GRID.factors["strength"]
NONE = np.zeros(len(PLACE))


def test_a_grid_holds_every_combination_of_factors_once():
    grid = draw_factor_grid(values_per_level=2)
    assert grid.pixels.shape == (len(KINDS) * (2 * NUM_LEVELS) ** 2, 25)
    assert list(grid.factors) == ["kind", "place", "strength"]
    combinations, counts = np.unique(np.stack(list(grid.factors.values())), axis=1, return_counts=True)
    assert combinations.shape == (3, len(KINDS) * NUM_LEVELS**2)
    assert set(counts) == {4}
    last = draw_patch("dent", place=0.9, strength=0.975)
    np.testing.assert_allclose(grid.pixels[-1], last)


def test_a_latent_for_each_factor_is_a_gap_of_one():
    told = told_by(PLACE, -3 * STRENGTH)
    np.testing.assert_allclose(told["place"], [1, 0], atol=1e-3)
    np.testing.assert_allclose(told["strength"], [0, 1], atol=1e-3)
    assert mutual_information_gap(told) == pytest.approx(1, abs=1e-3)
    assert changed_by(told) == [["place"], ["strength"]]


def test_latents_that_tell_both_factors_have_no_gap():
    told = told_by(PLACE + 10 * STRENGTH, STRENGTH + 10 * PLACE)
    assert all(shares == pytest.approx([1, 1], abs=1e-3) for shares in told.values())
    assert mutual_information_gap(told) == pytest.approx(0, abs=1e-3)
    assert changed_by(told) == [["place", "strength"]] * 2


def test_a_latent_that_is_given_up_tells_nothing():
    told = told_by(NONE, PLACE)
    assert changed_by(told) == [[], ["place"]]
    assert mutual_information_gap(told) == pytest.approx(0.5, abs=1e-3)
    assert changed_by(told_by(NONE, NONE)) == [[], []]


def test_a_noisy_latent_tells_as_much_as_a_noisy_channel():
    """Mean 0 or 1 with spread 1: the information of a binary input through Gaussian noise, by another integration."""
    upper = (PLACE >= 3).astype(float)  # two levels of five
    told = told_by(upper, NONE, std=1.0)["place"][0] * np.log(NUM_LEVELS)
    z = np.linspace(-8, 9, 20001)
    mixture = (0.6 * np.exp(-0.5 * z**2) + 0.4 * np.exp(-0.5 * (z - 1) ** 2)) / np.sqrt(2 * np.pi)
    entropy = -np.trapezoid(mixture * np.log(mixture), z)
    assert told == pytest.approx(entropy - 0.5 * np.log(2 * np.pi * np.e), abs=1e-4)


@pytest.mark.slow
def test_the_latents_of_print_are_what_the_lesson_says():
    """Mixed after some starts at the smallest beta, apart after all at the middle one, one given up at the largest."""
    small, middle, large = vaes_of_print(2000, num_steps=600).values()
    gaps = [mutual_information_gap(start.told) for start in small]
    assert changed_by(small[0].told) == [["place", "strength"]] * 2
    assert max(gaps) - min(gaps) > 0.2
    for start in middle:
        assert sorted(changed_by(start.told)) == [["place"], ["strength"]]
        assert 0.25 < mutual_information_gap(start.told) < 0.4
    for start in large:
        assert sorted(changed_by(start.told)) == [[], ["place"]]


def test_place_and_strength_of_print_are_orthogonal_changes():
    """Why one latent a factor costs least: the two derivatives of a patch have an angle of 90 degrees."""
    for place in (-0.6, 0.0, 0.7):
        to_place = draw_patch("print", place=place + 0.01, strength=0.8) - draw_patch(
            "print", place=place - 0.01, strength=0.8
        )
        to_strength = draw_patch("print", place=place, strength=0.81) - draw_patch("print", place=place, strength=0.79)
        cosine = to_place @ to_strength / np.linalg.norm(to_place) / np.linalg.norm(to_strength)
        assert abs(cosine) < 0.01
