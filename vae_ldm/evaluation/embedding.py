"""Pictures to embeddings: computed once, used by every measure that needs them."""

import numpy as np
import torch
from torch import Tensor

from vae_ldm.models.pixels import image_batches
from vae_ldm.models.vision_features import VisionFeatures


@torch.no_grad()
def embed_pictures(features: VisionFeatures, pictures: np.ndarray, batch_size: int = 64) -> Tensor:
    """Embeddings [N, D] on the CPU of uint8 pictures [N, H, W, C]."""
    device = features.mean.device
    batches = [features.embed(batch.to(device)).float().cpu() for batch in image_batches(pictures, batch_size)]
    return torch.cat(batches) if batches else torch.empty(0, features.embedding_dim)
