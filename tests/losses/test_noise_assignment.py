"""Immiscible noise (Li 2024, arXiv 2406.12303)."""

import importlib.util
import itertools

import pytest
import torch

from vae_ldm.errors import VaeLdmError
from vae_ldm.losses.noise_assignment import check_assignment, nearest_noise


def total(latents: torch.Tensor, noise: torch.Tensor) -> float:
    return float((latents - noise).square().sum())


def test_no_other_assignment_is_nearer():
    pytest.importorskip("scipy")
    latents, noise = torch.randn(2, 5, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    found = nearest_noise(latents, noise)
    assert sorted(found.tolist()) == list(range(5))
    nearest = min(total(latents, noise[list(rows)]) for rows in itertools.permutations(range(5)))
    assert total(latents, noise[found]) == pytest.approx(nearest)
    assert total(latents, noise[found]) < total(latents, noise)


def test_the_batch_keeps_its_noise_under_autocast_too():
    pytest.importorskip("scipy")
    latents, noise = torch.randn(2, 8, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = nearest_noise(latents, noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_noise(latents, noise), plain)


def test_a_missing_package_is_one_line_with_its_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VaeLdmError, match=r"pip install 'vae_ldm\[immiscible\]'$"):
        check_assignment()
