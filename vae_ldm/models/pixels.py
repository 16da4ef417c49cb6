"""Between pictures at rest (uint8 [N, H, W, C], 0 to 255) and images in a network (float [N, C, H, W], -1 to 1)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vae_ldm.models.joined_pictures import PictureArray


def to_unit_range(images: Tensor) -> Tensor:
    """Float32 images in [-1, 1] of uint8 images in [0, 255], on the same device, any shape."""
    return images.float().div_(127.5).sub_(1)


def as_images(pictures: PictureArray) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] of uint8 pictures [N, H, W, C]."""
    # Contiguous, because a network takes over its input's strides and channels_last is slower on a CPU; and a copy,
    # because torch must not be given the read-only memory of a mapped file.
    return to_unit_range(torch.from_numpy(np.asarray(pictures).transpose(0, 3, 1, 2).copy(order="C")))


def image_batches(pictures: PictureArray, batch_size: int) -> Iterator[Tensor]:
    """Images [B, C, H, W] in [-1, 1] of uint8 pictures [N, H, W, C], in order, the last batch shorter."""
    for start in range(0, len(pictures), batch_size):
        yield as_images(pictures[start : start + batch_size])


def as_pictures(images: Tensor) -> np.ndarray:
    """Pictures at rest, uint8 [N, H, W, C], of images [N, C, H, W] in [-1, 1]; what sticks out is cut."""
    pictures = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return pictures.permute(0, 2, 3, 1).cpu().numpy()
