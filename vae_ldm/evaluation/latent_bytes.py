"""Latents at rest: eight bits a number, which is what their bytes are counted by."""

from torch import Tensor


def rounded_to_eight_bits(latents: Tensor) -> Tensor:
    """Latents [B, c, h, w] after rounding to 256 levels a picture and channel, between the least and the largest there.

    The two ends cost another 4 bytes a channel, as float16.
    """
    low, high = latents.amin(dim=(2, 3), keepdim=True), latents.amax(dim=(2, 3), keepdim=True)
    step = ((high - low) / 255).clamp(min=1e-12)
    return ((latents - low) / step).round() * step + low


def eight_bit_bytes(shape: tuple[int, int, int]) -> int:
    """Bytes of one picture's latents of `shape` (c, h, w), ends included."""
    channels, height, width = shape
    return channels * (height * width + 4)
