"""Latents on a grid: whole numbers times a step, of which an archive keeps the numbers."""

import torch
from torch import Tensor

STEPS: tuple[float, ...] = tuple(2.0 ** (1 - number / 4) for number in range(25))
"""Steps from 2 down to 1/32 of the latents' standard deviation, each 2^(1/4) finer than the one before it."""

LARGEST_SYMBOL = 2**20


class UnquantizableError(ValueError):
    """These latents are not finite, or so large that no symbol stands for them."""


def quantize(latents: Tensor, step: float) -> Tensor:
    """The nearest multiples of `step`, as whole numbers: int32 of the latents' shape.

    Raises UnquantizableError where one is not finite, or further from 0 than 2^20 steps.
    """
    scaled = latents.float() / step
    if not bool((scaled.abs() < LARGEST_SYMBOL).all()):  # written so that NaN is refused
        raise UnquantizableError(f"latents reach {latents.abs().max().item():.3g} at a step of {step:.3g}")
    return scaled.round().to(torch.int32)


def dequantize(symbols: Tensor, step: float) -> Tensor:
    """Latents float32 of whole numbers: one rounded product each, so that every machine gives the same."""
    return symbols.float() * step
