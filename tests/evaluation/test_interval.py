import pytest
import torch

from vae_ldm.evaluation.interval import bootstrap_interval, share_interval


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 2 + 5
    interval = bootstrap_interval(values)
    half = 1.96 * values.std().item() / 20
    assert interval.low == pytest.approx(values.mean().item() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean().item() + half, abs=0.05)
    assert bootstrap_interval(values) == interval


def test_shares_by_hand() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611."""
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert share_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert share_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
