"""Ways through latent space: they close, they keep their distance, and they go where photos differ."""

from itertools import pairwise

import pytest
import torch

from vae_ldm.errors import VaeLdmError
from vae_ldm.latent_space.walk import Variation, axes_grid, corners_grid, loop_around, rim

SHAPE = (4, 3, 5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def center():
    return torch.randn(SHAPE, generator=seeded(1))


@pytest.fixture
def loop(center):
    return loop_around(center, torch.randn(2, *SHAPE, generator=seeded(2)), radius=0.6, steps=12)


def test_every_step_of_a_loop_is_as_far_from_the_photo_as_the_radius_says(center, loop):
    distances = (loop - center).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(distances, torch.full((12,), 0.6), atol=1e-5, rtol=0)


def test_a_loop_stays_in_the_plane_of_its_directions(center):
    directions = torch.randn(2, *SHAPE, generator=seeded(2))
    away = (loop_around(center, directions, radius=2, steps=5) - center).flatten(1)
    weights = torch.linalg.lstsq(directions.flatten(1).T, away.T).solution
    torch.testing.assert_close(weights.T @ directions.flatten(1), away, atol=1e-4, rtol=1e-4)


def test_a_loop_closes_with_a_step_like_all_others(loop):
    steps = (loop - loop.roll(1, dims=0)).flatten(1).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(12))
    # Opposite points are a diameter apart: it is one circle and not a way there and back.
    across = (loop - loop.roll(6, dims=0)).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(across, torch.full((12,), 1.2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("radius", [0, -1])
def test_a_radius_is_a_distance(center, radius):
    with pytest.raises(VaeLdmError, match=f"radius is {radius}; it is a distance above 0"):
        loop_around(center, torch.randn(2, *SHAPE), radius=radius, steps=4)


def latents_along(axis, second, count=200):
    weights = torch.randn(count, 2, generator=seeded(3))
    return 5 + 3 * weights[:, :1, None, None] * axis + weights[:, 1:, None, None] * second


def unit(place):
    axis = torch.zeros(SHAPE)
    axis.view(-1)[place] = 1
    return axis


def test_axes_are_those_along_which_photos_differ_most_first():
    variation = Variation.fit(latents_along(unit(7), unit(20)))
    torch.testing.assert_close(variation.axes[0], unit(7), atol=0.1, rtol=0)
    torch.testing.assert_close(variation.axes[1], unit(20), atol=0.1, rtol=0)
    torch.testing.assert_close(variation.stds[:2], torch.tensor([3.0, 1.0]), rtol=0.15, atol=0)


def test_random_directions_are_mixtures_of_what_photos_do():
    variation = Variation.fit(latents_along(unit(7), unit(20)))
    drawn = variation.draw(500, seeded()).flatten(1)
    assert drawn.std(dim=0)[7] == pytest.approx(3, rel=0.2)
    others = [place for place in range(60) if place not in (7, 20)]
    assert drawn[:, others].abs().max() < 0.05 * drawn.abs().max()
    assert torch.equal(variation.draw(2, seeded(5)), variation.draw(2, seeded(5)))


def test_two_photos_are_too_few_for_two_directions():
    with pytest.raises(VaeLdmError, match="at least 3 photos"):
        Variation.fit(torch.randn(2, *SHAPE))


def test_a_grid_is_the_photo_plus_so_much_of_each_axis(center):
    grid = axes_grid(center, torch.ones(SHAPE), torch.full(SHAPE, 10.0), [-1, 0, 1])
    assert grid.shape == (9, *SHAPE)
    torch.testing.assert_close(grid[4], center)
    torch.testing.assert_close(grid[5], center + 1)
    torch.testing.assert_close(grid[6], center + 10 - 1)


def test_three_photos_stand_at_three_corners_and_nothing_lies_outside_of_them(center):
    right, bottom = torch.ones(SHAPE), torch.full(SHAPE, -2.0)
    grid = corners_grid(center, right, bottom, [0, 0.5, 1])
    for place, expected in ((0, center), (2, right), (6, bottom), (8, (right + bottom) / 2), (1, (center + right) / 2)):
        torch.testing.assert_close(grid[place], expected)
    ends = torch.stack([center, right, bottom])
    assert (grid <= ends.amax(dim=0) + 1e-6).all()
    assert (grid >= ends.amin(dim=0) - 1e-6).all()


def test_the_rim_goes_once_round_in_single_steps():
    way = rim(3, 4)
    assert len(way) == len(set(way)) == 10
    places = [divmod(index, 4) for index in [*way, way[0]]]
    steps = [abs(a - c) + abs(b - d) for (a, b), (c, d) in pairwise(places)]
    assert steps == [1] * 10
    assert (1, 1) not in places
