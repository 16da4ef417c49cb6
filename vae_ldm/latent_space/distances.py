"""How far vectors lie from reference vectors: from the nearest of them, and from all in units of their spread."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

NUM_NEIGHBOURS = 5


def mean_nearest(vectors: Tensor, references: Tensor) -> Tensor:
    """Mean distance [B] of vectors [B, D] to the nearest five of the references [N, D]."""
    distances = torch.cdist(vectors, references)
    return distances.topk(min(NUM_NEIGHBOURS, len(references)), dim=1, largest=False).values.mean(dim=1)


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Distance from the mean in units of the covariance, which is shrunk towards a multiple of the identity."""

    mean: Tensor
    """[D], float64"""
    whitener: Tensor
    """[D, D], float64: whitener^T whitener is the inverse of the covariance."""

    @classmethod
    def fit(cls, vectors: Tensor) -> Self:
        """The distance fitted on vectors [N, D] in float64, with the shrinkage of Ledoit and Wolf (2004, eq. 14)."""
        exact = vectors.double()
        mean = exact.mean(dim=0)
        centered = exact - mean
        count, dim = centered.shape
        covariance = centered.T @ centered / count
        scale = covariance.trace() / dim
        spread = covariance.square().sum() - dim * scale.square()
        noise = (centered.square().sum(dim=1).square().sum() / count - covariance.square().sum()) / count
        shrinkage = (noise / spread.clamp(min=1e-30)).clamp(0, 1)
        shrunk = (1 - shrinkage) * covariance
        # A millionth keeps vectors that never vary, or lie on a line, from a division by zero.
        shrunk.diagonal().add_(shrinkage * scale + 1e-6 * scale + 1e-30)
        identity = torch.eye(dim, dtype=torch.float64)
        return cls(mean, torch.linalg.solve_triangular(torch.linalg.cholesky(shrunk), identity, upper=False))

    def __call__(self, vectors: Tensor) -> Tensor:
        """Distances [B] of vectors [B, D], divided by sqrt(D), so that the vectors fitted on lie near 1."""
        whitened = (vectors.double() - self.mean) @ self.whitener.T
        return (whitened.square().mean(dim=1)).sqrt().float()
