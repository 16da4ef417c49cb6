import math

import pytest
import torch

from vae_ldm.evaluation.reconstruction import MAX_PSNR, psnr_per_image, reconstruction_metrics, ssim_per_image


def images(size: tuple[int, int], channels: int = 3, count: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (10, 12), (24, 40), (64, 64)])
def test_one_value_a_picture_at_any_size(size: tuple[int, int], channels: int) -> None:
    originals = images(size, channels)
    same = reconstruction_metrics(originals, originals.clone())
    worse = reconstruction_metrics(originals, originals * 0.5)
    assert same.psnr.tolist() == [MAX_PSNR] * 3
    torch.testing.assert_close(same.ssim, torch.ones(3))
    assert worse.psnr.shape == worse.ssim.shape == (3,)
    assert (worse.ssim < 0.95).all()


def test_psnr_by_hand() -> None:
    """An error of 0.1 everywhere, of a range of 2, is 20 log10(2 / 0.1) dB."""
    originals = images((24, 40), 1)
    expected = torch.full((3,), 20 * math.log10(20.0))
    torch.testing.assert_close(psnr_per_image(originals + 0.1, originals), expected)


def test_ssim_by_hand_on_the_scale_of_pictures() -> None:
    """Of two flat pictures only the luminance term is left, on values in [0, 1]: eq. 6 of Wang 2004."""
    dark, bright = torch.full((1, 1, 16, 16), -0.8), torch.full((1, 1, 16, 16), 0.2)
    expected = (2 * 0.1 * 0.6 + 0.01**2) / (0.1**2 + 0.6**2 + 0.01**2)
    torch.testing.assert_close(ssim_per_image(dark, bright), torch.tensor([expected]), rtol=1e-4, atol=0)


def test_pictures_do_not_influence_each_other_and_the_worst_are_found() -> None:
    originals = images((16, 16))
    off = originals + torch.tensor([0.01, 0.08, 0.04]).view(3, 1, 1, 1)
    together = reconstruction_metrics(originals, off)
    alone = reconstruction_metrics(originals, off, batch_size=1)
    torch.testing.assert_close(together.psnr, alone.psnr)
    torch.testing.assert_close(together.ssim, alone.ssim)
    assert together.worst(2) == [1, 2]


def test_what_sticks_out_is_cut_as_on_saving() -> None:
    white = torch.ones(1, 3, 16, 16)
    assert reconstruction_metrics(white, white * 1.5).psnr.item() == MAX_PSNR
