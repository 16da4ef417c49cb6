"""Photos as vectors, which search and novelty compare: pooled, whitened latents, a vision backbone's, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.choices import FeatureKind
from vae_ldm.latent_space.stored_tensors import check_lengths, check_tensors

FeaturePart = Literal["latents", "backbone"]

SHARES: Mapping[FeaturePart, float] = {"latents": 0.25, "backbone": 0.75}
"""How much each part has of a cosine of both. A quarter finds more photos of the same class than either part alone, of
things and of heat (docs/search.md)."""

_FEW = 8


def parts_of(kind: FeatureKind) -> tuple[FeaturePart, ...]:
    """What vectors of this kind are made of."""
    return ("latents", "backbone") if kind == "both" else (kind,)


def pool_latents(latents: Tensor, grid: int = 4) -> Tensor:
    """One vector a picture, [B, c * (grid^2 + 1)], of latents [B, c, h, w].

    The mean of each cell of a grid says what is where; the spread over all positions says how busy a channel is.
    """
    cells = F.adaptive_avg_pool2d(latents, (min(grid, latents.shape[2]), min(grid, latents.shape[3])))
    return torch.cat([cells.flatten(1), latents.std(dim=(2, 3), correction=0)], dim=1)


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map after which the vectors it was fitted on have zero mean and unit covariance (PCA whitening)."""

    mean: Tensor
    """[D]"""
    projection: Tensor
    """[k, D]"""

    @classmethod
    def fit(cls, vectors: Tensor, *, max_dim: int = 256) -> Self:
        """The whitening of vectors [N, D] onto at most `max_dim` axes, and at most N / 2.

        Directions that hold less than a hundredth of the largest variance are damped, not blown up: few photos know
        little of them. (298 tins, 256 axes of the backbone, mAP@10 by class: a thousandth .43, a hundredth .52.)
        Fewer than 8 vectors say nothing of a covariance: those that come are then left as they are.
        """
        if len(vectors) < _FEW:
            return cls(vectors.new_zeros(vectors.shape[1]), torch.eye(vectors.shape[1]))
        exact = vectors.double()
        mean = exact.mean(dim=0)
        _, singular, axes = torch.linalg.svd(exact - mean, full_matrices=False)
        dim = max(1, min(max_dim, len(vectors) // 2, axes.shape[0]))
        variance = singular[:dim].square() / max(len(vectors) - 1, 1)
        scale = (variance + 1e-2 * variance[0] + 1e-12).rsqrt()
        return cls(mean.float(), (axes[:dim] * scale[:, None]).float().contiguous())

    def __call__(self, vectors: Tensor) -> Tensor:
        """Whitened vectors [N, k]."""
        check_lengths(self.mean, vectors)
        return (vectors - self.mean) @ self.projection.T


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Unit vectors whose cosine says how alike two photos are; fitted once on the photos of an index or a detector."""

    kind: FeatureKind
    whitenings: Mapping[FeaturePart, Whitening]
    shares: Mapping[FeaturePart, float]
    """The share of each part in the cosine; shares sum to 1."""

    @classmethod
    def fit(cls, kind: FeatureKind, vectors: Mapping[FeaturePart, Tensor]) -> Self:
        """The space of raw vectors [N, D] for each part of `kind`."""
        parts = parts_of(kind)
        shares = SHARES if len(parts) > 1 else dict.fromkeys(parts, 1.0)
        return cls(kind, {part: Whitening.fit(vectors[part]) for part in parts}, shares)

    def __call__(self, vectors: Mapping[FeaturePart, Tensor]) -> Tensor:
        """Unit vectors [N, dim] of raw ones."""
        units = {part: F.normalize(self.whitenings[part](vectors[part]), dim=1) for part in parts_of(self.kind)}
        return torch.cat([self.shares[part] ** 0.5 * unit for part, unit in units.items()], dim=1)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return sum(len(self.whitenings[part].projection) for part in parts_of(self.kind))

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs beside the kind, for a safetensors file."""
        return {
            f"{part}.{name}": tensor
            for part, whitening in self.whitenings.items()
            for name, tensor in (
                ("mean", whitening.mean),
                ("projection", whitening.projection),
                ("share", torch.tensor(self.shares[part], dtype=torch.float64)),
            )
        }

    @classmethod
    def from_tensors(cls, kind: FeatureKind, tensors: Mapping[str, Tensor]) -> Self:
        """The space that `tensors()` came from. Raises KeyError or ValueError where they are of none."""
        parts = parts_of(kind)
        for part in parts:
            check_tensors(tensors, {f"{part}.mean": ("D",), f"{part}.projection": ("k", "D")})
            check_tensors(tensors, {f"{part}.share": ()}, dtype=torch.float64)
        return cls(
            kind,
            {part: Whitening(tensors[f"{part}.mean"], tensors[f"{part}.projection"]) for part in parts},
            {part: tensors[f"{part}.share"].item() for part in parts},
        )
