import pytest
import torch

from vae_ldm.evaluation.interval import (
    Interval,
    bootstrap_interval,
    crossed_interval,
    difference_interval,
    share_interval,
)


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 2 + 5
    interval = bootstrap_interval(values)
    half = 1.96 * values.std().item() / 20
    assert interval.low == pytest.approx(values.mean().item() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean().item() + half, abs=0.05)
    assert bootstrap_interval(values) == interval
    assert bootstrap_interval(values[:1]) is None


def test_shares_by_hand() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611."""
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert share_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert share_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10, 12])
@pytest.mark.parametrize("between_seeds", [0.0, 0.01, 0.06])
def test_an_interval_over_seeds_and_pictures_covers_the_truth_as_often_as_it_says(num_seeds, between_seeds):
    """Differences in accuracy on 100 pictures of 5 classes, the truth 0: also where the seeds differ by 6 points."""
    rng, covered = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        seeds = between_seeds * torch.randn(num_seeds, 1, generator=rng)
        pictures = 0.05 * torch.randn(1, 100, generator=rng)
        values = seeds + pictures + 0.3 * torch.randn(num_seeds, 100, generator=rng)
        low, high = crossed_interval(values, torch.arange(100) % 5)
        covered += low < 0 < high
    assert covered >= 184  # of 190 expected; two standard errors below


def test_every_class_weighs_the_same_in_an_interval() -> None:
    classes = torch.tensor([0] * 90 + [1] * 10)
    values = (classes == 1).float().expand(3, -1)
    assert crossed_interval(values, classes) == pytest.approx((0.5, 0.5))


def test_a_class_of_one_picture_is_no_surer_than_the_others() -> None:
    values = torch.randn(5, 41, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0] * 40 + [1])
    low, high = crossed_interval(values, classes)
    assert high - low > 1.96 * values[:, :40].mean(dim=0).std().item()


def test_the_interval_of_a_difference_is_that_of_two_independent_errors() -> None:
    assert difference_interval(10, Interval(7, 14), 4, Interval(0, 8)) == pytest.approx((6 - 5, 6 + 32**0.5))
    assert difference_interval(10, Interval(7, 14), 4, None) == pytest.approx((3, 10))
