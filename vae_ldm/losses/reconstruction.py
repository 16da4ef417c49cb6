"""How far a reconstruction is from its picture, pixel by pixel and window by window; images [B, C, H, W] in [-1, 1]."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = 0.01**2, 0.03**2
"""Constants of SSIM for pictures in [0, 1]."""


def l1_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error over channels and pixels, one value per image in [0, 2]: [B]."""
    return F.l1_loss(reconstruction.float(), images, reduction="none").flatten(1).mean(1)


def l2_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error over channels and pixels, one value per image in [0, 4]: [B]."""
    return F.mse_loss(reconstruction.float(), images, reduction="none").flatten(1).mean(1)


def huber_error(reconstruction: Tensor, images: Tensor, *, delta: float) -> Tensor:
    """Mean Huber error over channels and pixels, one value per image: [B].

    Half the square below `delta`, delta (|x| - delta / 2) above it (Huber 1964).
    """
    return F.huber_loss(reconstruction.float(), images, reduction="none", delta=delta).flatten(1).mean(1)


def ssim_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """1 - SSIM, one value per image in [0, 2]: [B] (Wang 2004: 11x11 Gaussian window, sigma 1.5; borders reflected).

    torchmetrics' measure, but as products with a band matrix a side: a quarter of the time on a CPU, and on a GPU the
    same bits each time. Sides from 6 px, because borders are reflected by 5.
    """
    # SSIM subtracts squared means from mean squares, which bfloat16 cannot; and its luminance term compares
    # means that must not be negative, so the pictures are moved to [0, 1].
    with torch.autocast(images.device.type, enabled=False):
        x, y = (reconstruction.float() + 1) / 2, (images.float() + 1) / 2
        down, across = _window(x.shape[-2], x.device), _window(x.shape[-1], x.device)
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = _products(down, torch.stack((x, y, x * x, y * y, x * y)), across)
        xx, yy, xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
        contrast = (2 * (mean_xy - xy) + _C2) / ((mean_xx - xx).clamp(min=0) + (mean_yy - yy).clamp(min=0) + _C2)
        return 1 - ((2 * xy + _C1) / (xx + yy + _C1) * contrast).flatten(1).mean(1)


def _products(down: Tensor, values: Tensor, across: Tensor) -> Tensor:
    """down @ values @ across.T in full float32, there and back: TF32 keeps three digits of what SSIM subtracts."""
    if torch.get_float32_matmul_precision() == "highest":
        return down @ values @ across.T
    return _FullPrecision.apply(down, values, across)


class _FullPrecision(torch.autograd.Function):
    """The products where the process allows TF32, as accelerate does with a compiling backend."""

    @staticmethod
    def forward(ctx: Any, down: Tensor, values: Tensor, across: Tensor) -> Tensor:
        ctx.save_for_backward(down, across)
        with _no_tf32():
            return down @ values @ across.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        down, across = ctx.saved_tensors
        with _no_tf32():
            return None, down.T @ gradient @ across, None


@contextmanager
def _no_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
@torch.inference_mode(False)  # or a window first met in validation could not be trained with
def _window(size: int, device: torch.device) -> Tensor:
    """[size, size]: row i holds the Gaussian weights of the pixels around i, those beyond a border at their mirrors."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1)
    weights = torch.exp(-(offsets / _SIGMA).square() / 2)
    places = (torch.arange(size)[:, None] + offsets).abs()
    places = size - 1 - (size - 1 - places).abs()
    band = torch.zeros(size, size).scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))
    return band.to(device)
