"""Pictures to embeddings: computed once, used by every measure that needs them."""

from collections.abc import Callable

import torch
from torch import Tensor

from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.joined_pictures import PictureArray, of_one_size
from vae_ldm.models.pixels import as_images
from vae_ldm.models.vision_features import VisionFeatures


@torch.no_grad()
def embed_pictures(
    features: VisionFeatures,
    pictures: PictureArray,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Embeddings [N, D] on the CPU of uint8 pictures [N, H, W, C], of one size or of several.

    `progress(done, total)` is told after each batch.
    """
    embeddings = torch.empty(len(pictures), features.embedding_dim)
    done = 0
    for rows, some in of_one_size(pictures):
        own = 0
        for embedded in in_batches(
            lambda batch: features.embed(as_images(batch).to(features.mean.device)).float().cpu(),
            some,
            batch_size_for(some.shape[1:3], most=batch_size),
        ):
            embeddings[torch.from_numpy(rows[own : own + len(embedded)])] = embedded
            own, done = own + len(embedded), done + len(embedded)
            if progress is not None:
                progress(done, len(pictures))
    return embeddings
