"""Pictures seen anew each time: random crops, and light and colour that vary a little."""

import numpy as np
import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


def random_crops(
    images: np.ndarray, indices: np.ndarray, crop_size: tuple[int, int] | None, rng: np.random.Generator
) -> np.ndarray:
    """A copy of the images [B, h, w, C] at these indices, each cut at a place of its own; None: whole."""
    if crop_size is None:
        return images[indices]
    height, width = crop_size
    top = rng.integers(0, images.shape[1] - height + 1, size=len(indices))
    left = rng.integers(0, images.shape[2] - width + 1, size=len(indices))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def jitter_colors(images: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """uint8 [B, C, H, W] with brightness, contrast and saturation, in this order, each scaled by 1 +- strength.

    One uniform factor a picture; contrast is about the picture's mean grey, saturation about each pixel's own grey
    (none for 1 channel). Alpha stays as it is. All three are linear, so a picture takes one 3x3 matrix and one offset.
    """
    factors = rng.uniform(1 - strength, 1 + strength, (3, len(images), 1, 1)).astype(np.float32)
    brightness, contrast, saturation = torch.from_numpy(factors)
    colors = images[:, :3].flatten(2).float()
    num_colors = colors.shape[1]
    luma = torch.tensor(_LUMA if num_colors == 3 else (1.0,)).expand(num_colors, num_colors)  # each row makes grey
    mix = saturation * torch.eye(num_colors) + (1 - saturation) * luma
    mean = (luma[:1] @ colors).mean(dim=-1, keepdim=True)
    colors = torch.baddbmm((1 - contrast) * brightness * mean, contrast * brightness * mix, colors)
    jittered = images.clone()
    jittered[:, :3] = colors.round_().clamp_(0, 255).unflatten(2, images.shape[2:])
    return jittered
