"""The floor under every autoencoder: what a linear code of the same size reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearCode:
    """PCA of patches of f x f px to `latent_channels` numbers: the best linear map onto latents of the same shape."""

    mean: Tensor
    """[C * f * f]"""
    components: Tensor
    """Orthonormal rows, [latent_channels, C * f * f]."""
    downsample_factor: int

    @classmethod
    def fit(
        cls,
        images: Tensor | Sequence[Tensor],
        *,
        downsample_factor: int,
        latent_channels: int,
        max_patches: int = 200_000,
        seed: int = 0,
    ) -> Self:
        """The code that loses least on a random choice of the patches of `images` [N, C, H, W], of one size or more."""
        of_sizes = [images] if isinstance(images, Tensor) else images
        patches = torch.cat(
            [F.pixel_unshuffle(some, downsample_factor).movedim(1, -1).flatten(0, -2) for some in of_sizes]
        )
        if len(patches) > max_patches:
            generator = torch.Generator().manual_seed(seed)
            patches = patches[torch.randint(len(patches), (max_patches,), generator=generator)]
        # The covariance is at most 768 x 768 (f16, RGB): an exact eigh is quicker than a randomised pca_lowrank.
        _, eigenvectors = torch.linalg.eigh(patches.T.cov())
        return cls(patches.mean(dim=0), eigenvectors.T.flip(0)[:latent_channels], downsample_factor)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] after encoding and decoding; sides divisible by `downsample_factor`."""
        patches = F.pixel_unshuffle(images, self.downsample_factor).movedim(1, -1)
        latents = (patches - self.mean) @ self.components.T
        decoded = latents @ self.components + self.mean
        return F.pixel_shuffle(decoded.movedim(-1, 1), self.downsample_factor)
