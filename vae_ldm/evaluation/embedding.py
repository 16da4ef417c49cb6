"""Pictures to embeddings: computed once, used by every measure that needs them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.pixels import as_images
from vae_ldm.models.vision_features import VisionFeatures


@torch.no_grad()
def embed_pictures(
    features: VisionFeatures,
    pictures: np.ndarray,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Embeddings [N, D] on the CPU of uint8 pictures [N, H, W, C]; `progress(done, total)` is told after each batch."""
    embeddings = torch.empty(len(pictures), features.embedding_dim)
    done = 0
    for embedded in in_batches(
        lambda some: features.embed(as_images(some).to(features.mean.device)).float().cpu(),
        pictures,
        batch_size_for(pictures.shape[1:3], most=batch_size),
    ):
        embeddings[done : done + len(embedded)] = embedded
        done += len(embedded)
        if progress is not None:
            progress(done, len(pictures))
    return embeddings
