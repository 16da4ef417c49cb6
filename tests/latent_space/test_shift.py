"""The test of a shift: by hand, its rate on photos of the same kind, and what it tells from what."""

import math

import pytest
import torch

from vae_ldm.latent_space.conformal import p_values
from vae_ldm.latent_space.shift import kolmogorov_smirnov_p_value, shift_test


def held_out(scores: torch.Tensor) -> torch.Tensor:
    """P-values of calibration photos among themselves, as `CrossFittedDetector.held_out_p_values` has them."""
    return (scores >= scores[:, None]).double().mean(dim=1)


def shift_of(new: torch.Tensor, calibration: torch.Tensor):
    return shift_test(p_values(new, calibration), held_out(calibration))


def test_the_gap_by_hand():
    found = shift_test(torch.tensor([0.1, 0.3, 0.3]), torch.tensor([0.25, 0.5, 0.75, 1.0]))
    assert found.distance == pytest.approx(0.75)  # at .3 three of three, and one of four
    assert found.stranger
    assert (found.num_new, found.num_calibration) == (3, 4)
    assert found.usual_distance == pytest.approx(0.75)  # two of two, and one of four
    assert found.share_novel == pytest.approx(1 / 3)
    other_way = shift_test(torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.tensor([0.1, 0.3, 0.3]))
    assert other_way.distance == pytest.approx(0.75)
    assert not other_way.stranger
    assert other_way.share_novel == 0


def test_kolmogorovs_distribution():
    """The limit's quantiles of 10, 5 and 1 % are 1.2238, 1.3581 and 1.6276 (Smirnov 1948)."""
    for quantile, level in ((1.2238, 0.1), (1.3581, 0.05), (1.6276, 0.01)):
        assert kolmogorov_smirnov_p_value(quantile / math.sqrt(1e10), 2e10, 2e10) == pytest.approx(level, rel=1e-3)
    assert kolmogorov_smirnov_p_value(0.0, 10, 10) == 1
    assert kolmogorov_smirnov_p_value(0.5, 0, 10) == 1
    assert kolmogorov_smirnov_p_value(1.0, 500, 500) < 1e-12
    assert 0 <= kolmogorov_smirnov_p_value(0.001, 3, 3) <= 1


def test_p_values_give_the_gap_of_the_scores():
    """The gap of two samples of scores by definition: over all places where one of them steps."""
    generator = torch.Generator().manual_seed(0)
    for num_calibration, num_new in ((7, 5), (40, 200), (300, 20)):
        calibration, new = (torch.randn(n, generator=generator).double() for n in (num_calibration, num_new))
        steps = torch.cat([calibration, new])
        gap = (
            (new >= steps[:, None]).double().mean(dim=1) - (calibration >= steps[:, None]).double().mean(dim=1)
        ).abs()
        assert shift_of(new, calibration).distance == pytest.approx(gap.max().item())


@pytest.mark.parametrize(("num_calibration", "num_new"), [(30, 20), (100, 300), (400, 60)])
def test_photos_of_the_same_kind_are_rejected_as_often_as_the_level_says(num_calibration, num_new):
    """Also where the calibration photos are few beside the new ones."""
    generator = torch.Generator().manual_seed(1)
    rejected, usual_rejected, num_draws = 0, 0, 1000
    for _ in range(num_draws):
        found = shift_of(torch.randn(num_new, generator=generator), torch.randn(num_calibration, generator=generator))
        rejected += found.p_value <= 0.05
        usual_rejected += found.usual_p_value <= 0.05
    assert 0.03 <= rejected / num_draws <= 0.07
    assert 0.03 <= usual_rejected / num_draws <= 0.07


def test_new_photos_that_differ_a_little_are_told_from_a_few_novel_ones():
    generator = torch.Generator().manual_seed(2)
    kinds: dict[str, list[str]] = {"same": [], "novel": [], "different": [], "less strange": []}
    shares = []
    for _ in range(40):
        calibration, new = torch.randn(1000, generator=generator), torch.randn(400, generator=generator)
        kinds["same"].append(shift_of(new, calibration).kind())
        some_novel = torch.cat([new[:320], new[320:] + 6])
        kinds["novel"].append(shift_of(some_novel, calibration).kind())
        shares.append(shift_of(some_novel, calibration).share_novel)
        kinds["different"].append(shift_of(new + 0.8, calibration).kind())
        kinds["less strange"].append(shift_of(new - 0.8, calibration).kind())
    assert kinds["same"].count("none") >= 36
    assert kinds["novel"].count("some novel") >= 36
    assert kinds["different"].count("all different") >= 36
    assert kinds["less strange"].count("all different") == 40
    assert sum(shares) / len(shares) == pytest.approx(0.2, abs=0.02)


def test_photos_of_one_group_weigh_as_one():
    """Ten equal photos of each of forty things are forty photos, and not four hundred."""
    generator = torch.Generator().manual_seed(3)
    groups = torch.arange(40).repeat_interleave(10)
    apart, together = 0, 0
    for _ in range(300):
        calibration, things = torch.randn(500, generator=generator), torch.randn(40, generator=generator)
        new, then = p_values(things[groups], calibration), held_out(calibration)
        found = shift_test(new, then, new_groups=groups)
        assert found.num_new == 40
        together += found.p_value <= 0.05
        apart += shift_test(new, then).p_value <= 0.05
    assert together / 300 <= 0.08
    assert apart / 300 >= 0.3
    once = shift_test(p_values(things, calibration), then)
    assert (found.distance, found.p_value) == (pytest.approx(once.distance), pytest.approx(once.p_value))


def test_groups_of_calibration_photos_weigh_as_one():
    new, calibration = torch.tensor([0.1, 0.9]), torch.tensor([0.1, 0.1, 0.1, 0.9])
    found = shift_test(new, calibration, calibration_groups=torch.tensor([5, 5, 5, 2]))
    assert found.num_calibration == 2
    assert found.distance == pytest.approx(0, abs=1e-12)
    assert shift_test(new, calibration).distance == pytest.approx(0.25)


def test_a_side_without_photos_and_photos_that_are_all_novel():
    none = torch.zeros(0)
    for new, calibration in ((none, torch.ones(3)), (torch.ones(3), none)):
        with pytest.raises(ValueError, match="at least one new photo and one calibration photo"):
            shift_test(new, calibration)
    found = shift_test(torch.full((50,), 0.01), torch.arange(1, 101) / 100)
    assert (found.kind(), found.share_novel, found.usual_p_value) == ("some novel", 1.0, 1.0)
