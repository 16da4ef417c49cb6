"""PSNR as torchmetrics computes it, without importing it."""

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from vae_ldm.evaluation.reconstruction import DATA_RANGE, MAX_PSNR, psnr_per_image


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 33, 20), (4, 64, 64)])
def test_psnr_is_that_of_torchmetrics_bit_for_bit(size: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(5, *size, generator=generator) * 2 - 1
    images = originals + 0.1 * torch.randn(5, *size, generator=generator)
    expected = peak_signal_noise_ratio(images, originals, data_range=DATA_RANGE, reduction="none", dim=(1, 2, 3))
    assert torch.equal(psnr_per_image(images, originals), expected)


def test_equal_pictures_have_the_highest_psnr_that_is_told() -> None:
    images = torch.zeros(2, 3, 8, 8)
    assert psnr_per_image(images, images).tolist() == [MAX_PSNR] * 2


def test_psnr_of_a_known_error() -> None:
    images, originals = torch.full((1, 1, 4, 4), 0.2), torch.zeros(1, 1, 4, 4)
    assert psnr_per_image(images, originals).item() == pytest.approx(20.0)  # 20 log10(2 / 0.2)
