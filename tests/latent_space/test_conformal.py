"""P-values and thresholds: by hand, and on exchangeable scores."""

import pytest
import torch

from vae_ldm.latent_space.conformal import cross_p_values, cross_promise, p_values, threshold
from vae_ldm.latent_space.false_alarms import photos_needed, true_rates


def test_by_hand():
    calibration = torch.tensor([3.0, 1.0, 2.0, 2.0])
    scores = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0])
    assert p_values(scores, calibration).mul(5).round().tolist() == [5, 5, 4, 4, 2, 2, 1]
    assert threshold(calibration, 0.2) == 3.0
    assert threshold(calibration, 0.4) == 2.0
    assert threshold(calibration, 0.79) == 2.0  # floor(0.79 * 5) = 3 photos may lie above, and only where none tie


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 1 / 3])
def test_a_score_above_the_threshold_is_one_whose_p_value_is_at_most_the_rate(rate):
    generator = torch.Generator().manual_seed(0)
    calibration = torch.randint(30, (photos_needed(rate) + 7,), generator=generator).double()  # with ties
    scores = torch.arange(-1, 31).double()
    novel = scores > threshold(calibration, rate)
    assert torch.equal(novel, p_values(scores, calibration) <= rate + 1e-12)


def test_a_threshold_by_groups_weighs_a_group_as_one_photo():
    """By hand: of three groups, at a rate of 1/2, scores that weigh 1 together may lie above."""
    calibration, groups = torch.tensor([9.0, 8.0, 5.0, 4.0, 1.0]), torch.tensor([7, 7, 7, 2, 3])
    assert threshold(calibration, 0.5, groups) == 4.0  # the three of the first group weigh 1
    assert threshold(calibration, 0.25, groups) == 9.0
    assert threshold(calibration, 0.5, torch.arange(5)) == threshold(calibration, 0.5) == 5.0
    with pytest.raises(ValueError, match="needs 4 calibration photos, not 3"):
        threshold(calibration, 0.2, groups)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_a_score_above_a_threshold_by_groups_is_one_whose_p_value_is_at_most_the_rate(rate):
    generator = torch.Generator().manual_seed(0)
    calibration, groups = torch.randint(30, (2, 60), generator=generator)  # with ties
    scores = torch.arange(-1, 31).double()
    novel = scores > threshold(calibration.double(), rate, groups)
    one_fold = torch.zeros(60, dtype=torch.int64)
    found = cross_p_values(scores[None], calibration.double(), one_fold, groups)
    assert torch.equal(novel, found <= rate + 1e-9)


@pytest.mark.parametrize("num_calibration", [19, 60])
@pytest.mark.parametrize("scores", ["normal", "exponential", "rounded"])
def test_p_values_of_exchangeable_scores_are_uniform_or_above(scores, num_calibration):
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(20_000, num_calibration + 1, generator=generator)
    drawn = {"normal": drawn, "exponential": drawn.exp(), "rounded": drawn.round()}[scores]
    found = torch.stack([p_values(row[:1], row[1:]) for row in drawn]).flatten()
    for rate in (0.05, 0.1, 0.5):
        share = (found <= rate + 1e-12).double().mean().item()
        exact = int(rate * (num_calibration + 1) + 1e-9) / (num_calibration + 1)
        assert share <= exact + 0.008
        if scores != "rounded":  # ties make it cautious
            assert share >= exact - 0.008


def test_the_floor_of_p_values_says_how_many_photos_a_rate_needs():
    assert [photos_needed(rate) for rate in (0.5, 0.05, 0.01, 0.3)] == [1, 19, 99, 3]
    for rate in (0.5, 0.05, 0.01, 0.3):
        enough = torch.zeros(photos_needed(rate))
        assert p_values(torch.ones(1), enough).item() <= rate + 1e-12
        assert threshold(enough, rate) == 0.0
        with pytest.raises(ValueError, match=r"calibration photos?, not"):
            threshold(enough[1:], rate)


def test_the_true_rate_of_a_threshold_lies_within_what_is_said_for_most_calibration_sets():
    low, high = true_rates(39, 0.05)
    scores = torch.rand(4000, 39, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rates = torch.tensor([1 - threshold(some, 0.05) for some in scores])  # of scores that are uniform in [0, 1]
    assert ((rates >= low) & (rates <= high)).double().mean() == pytest.approx(0.95, abs=0.015)
    assert true_rates(3999, 0.05) == (pytest.approx(0.044, abs=0.003), pytest.approx(0.057, abs=0.003))


def test_cross_p_values_by_hand():
    """Each held-out score is compared with what the fit without its fold says; a group counts as one."""
    held_out, folds = torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 1, 1])
    scores = torch.tensor([[0.0, 2.0, 3.0, 9.0], [4.0, 2.0, 1.0, 9.0]])  # two fits, four photos
    found = cross_p_values(scores, held_out, folds, torch.arange(5))
    assert found.mul(6).round().tolist() == [1 + 2 + 1, 1 + 1 + 3, 1 + 1 + 3, 1]
    pairs = cross_p_values(scores, held_out, folds, torch.tensor([7, 7, 1, 1, 3]))
    assert pairs.mul(8).round().tolist() == [2 * (1 + 1 + 1), 2 * (1 + 0.5 + 2), 2 * (1 + 0.5 + 2), 2]
    maps = scores[:, :, None].expand(2, 4, 3)  # the same for every place of three
    assert torch.equal(cross_p_values(maps, held_out, folds, torch.arange(5)), found[:, None].expand(4, 3))


def test_cross_p_values_of_one_fit_are_split_p_values():
    generator = torch.Generator().manual_seed(0)
    held_out, scores = torch.randint(20, (2, 30), generator=generator).double()
    rows = torch.arange(30)
    found = cross_p_values(scores.expand(3, 30), held_out, rows % 3, rows)
    torch.testing.assert_close(found, p_values(scores, held_out))


def test_cross_conformal_holds_the_rate_where_fits_learn_the_mean_of_few_numbers():
    """The score is the distance from the mean of the other folds, which hardly resembles that of all numbers."""
    generator = torch.Generator().manual_seed(0)
    rows, folds = torch.arange(20), torch.arange(20) % 5
    found = []
    for _ in range(3000):
        drawn = torch.randn(21, generator=generator, dtype=torch.float64)
        centers = torch.stack([drawn[:20][folds != fold].mean() for fold in range(5)])
        held_out = (drawn[:20] - centers[folds]).abs()
        found.append(cross_p_values((drawn[20:] - centers[:, None]).abs(), held_out, folds, rows))
    for rate in (0.05, 0.1, 0.25):
        share = (torch.cat(found) <= rate + 1e-12).double().mean().item()
        assert share <= rate + 0.015
        assert share >= int(rate * 21) / 21 - 0.015
        assert share <= cross_promise(rate, 20, 5)


def test_the_promise_of_cross_conformal_p_values():
    # n = 100 and K = 10: 2 (1 - 1/10) / (100/10 + 1) = .1636 and (1 - 10/100) / 11 = .0818
    assert cross_promise(0.05, 100, 10) == pytest.approx(0.1 + 0.9 / 11)
    assert cross_promise(0.05, 10_000, 5) == pytest.approx(0.1 + 1.6 / 2001)
    assert cross_promise(0.05, 100, 100) == pytest.approx(0.1)  # of the jackknife+
    assert cross_promise(0.6, 100, 10) == 1
