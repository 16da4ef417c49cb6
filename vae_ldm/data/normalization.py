"""Between pictures at rest (uint8, 0 to 255) and pictures in a network (float, -1 to 1)."""

import numpy as np
import torch
from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """Float32 images in [-1, 1] of uint8 images in [0, 255], on the same device, any shape."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> np.ndarray:
    """uint8 [N, H, W, C] of float images [N, C, H, W] in [-1, 1]; values outside are clamped."""
    pictures = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return pictures.permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy()
