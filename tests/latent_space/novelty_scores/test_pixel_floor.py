"""The yardstick of made damage, by hand."""

import pytest
import torch

from vae_ldm.latent_space.novelty_scores.pixel_floor import PixelFloor, farther_auroc


def test_the_floor_is_the_error_of_the_axes_and_the_distance_on_them():
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(6, 2, generator=generator))[0].T
    known = torch.randn(20, 2, generator=generator) @ plane  # two axes hold all of it
    floor = PixelFloor.fit(known)
    off = torch.linalg.qr(torch.cat([plane.T, torch.randn(6, 1, generator=generator)], dim=1))[0][:, 2]
    asked = torch.stack([known[3], known[3] + 3 * off, known[3] + 50 * plane[0]])
    found = floor(asked)
    nearest = torch.stack([(asked[0] - each).norm() for each in known]).sort().values[:5].mean()
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 9 / 6, 0.0]), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[:2, 1], nearest.expand(2), atol=1e-3, rtol=1e-3)
    assert found[2, 1] > 40


def test_axes_are_kept_until_they_hold_95_percent_of_the_variance():
    corners = torch.tensor([[s * 10.0, t * 4.0, u * 1.0] for s in (-1, 1) for t in (-1, 1) for u in (-1, 1)])
    assert len(PixelFloor.fit(corners).axes) == 2  # 100 and 16 of 117
    assert PixelFloor.fit(torch.ones(4, 3))(torch.ones(2, 3)).tolist() == [[0, 0], [0, 0]]


def test_the_farther_auroc_counts_lower_scores_as_well():
    usual = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    assert farther_auroc(usual, torch.tensor([[5.0, 2.5]])) == 1
    assert farther_auroc(usual, torch.tensor([[2.5, 0.0]])) == 1
    assert farther_auroc(usual, torch.tensor([[3.5, 1.5]])) == pytest.approx(0.75)
