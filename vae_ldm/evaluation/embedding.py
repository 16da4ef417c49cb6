"""Pictures to embeddings: computed once, used by every measure that needs them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vae_ldm.models.pixels import image_batches
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
    for batch in image_batches(pictures, batch_size):
        embeddings[done : done + len(batch)] = features.embed(batch.to(features.mean.device)).float().cpu()
        done += len(batch)
        if progress is not None:
            progress(done, len(pictures))
    return embeddings
