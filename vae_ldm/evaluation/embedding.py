"""Pictures at rest to tensors, and to embeddings: computed once, used by every measure that needs them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vae_ldm.models.vision_features import VisionFeatures


def image_batches(pictures: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Float batches [B, C, H, W] in [-1, 1] of uint8 pictures [N, H, W, C], in order."""
    for start in range(0, len(pictures), batch_size):
        # A copy: torch must not be given the read-only memory of a mapped file.
        batch = torch.from_numpy(np.array(pictures[start : start + batch_size]))
        yield batch.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def as_images(pictures: np.ndarray) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] of uint8 pictures [N, H, W, C]."""
    return next(image_batches(pictures, len(pictures)))


def as_pictures(images: Tensor) -> np.ndarray:
    """Pictures at rest, uint8 [N, H, W, C], of images [N, C, H, W] in [-1, 1]; what sticks out is cut."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def embed_pictures(features: VisionFeatures, pictures: np.ndarray, batch_size: int = 64) -> Tensor:
    """Embeddings [N, D] on the CPU of uint8 pictures [N, H, W, C]."""
    device = features.mean.device
    batches = [features.embed(batch.to(device)).float().cpu() for batch in image_batches(pictures, batch_size)]
    return torch.cat(batches) if batches else torch.empty(0, features.embedding_dim)
