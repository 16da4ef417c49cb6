"""What photos say of novelty without any network: the yardstick for how hard made damage is."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.distances import mean_nearest
from vae_ldm.latent_space.novelty_scores.combination import auroc

PCA_VARIANCE = 0.95


@dataclass(frozen=True, eq=False)
class PixelFloor:
    """Two scores of small copies of photos, by principal components that hold 95 % of the variance."""

    mean: Tensor
    """[D]"""
    axes: Tensor
    """Orthonormal, [k, D]."""
    references: Tensor
    """[N, k]"""

    @classmethod
    def fit(cls, pixels: Tensor) -> Self:
        """Fitted on the pixels [N, D] of good photos."""
        mean = pixels.mean(dim=0)
        _, singular, axes = torch.linalg.svd(pixels - mean, full_matrices=False)
        share = singular.square().cumsum(dim=0) / singular.square().sum().clamp(min=1e-30)
        axes = axes[: int((share < PCA_VARIANCE).sum()) + 1]
        return cls(mean, axes, (pixels - mean) @ axes.T)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Scores [N, 2]: the mean squared error of what the axes give back, and the mean distance to the nearest five
        good photos on them."""
        known = (pixels - self.mean) @ self.axes.T
        error = (pixels - self.mean - known @ self.axes).square().mean(dim=1)
        return torch.stack([error, mean_nearest(known, self.references)], dim=1)


def farther_auroc(usual: Tensor, novel: Tensor) -> float:
    """The AUROC of whichever score is farther from 1/2, counted from that side: in [.5, 1], of scores [N, k], [M, k].

    Damage that makes photos smoother lowers the error of a linear floor, and is seen as well as what raises it.
    """
    return 0.5 + (auroc(usual, novel) - 0.5).abs().max().item()
