"""How strongly, and how unevenly, the stages of a network respond to a photo as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.distances import Mahalanobis, mean_nearest
from vae_ldm.latent_space.stored_tensors import check_tensors

_LEAST = 1e-3
"""What responds less is as good as still: its logarithm would be noise."""


@dataclass(frozen=True, eq=False)
class ActivityScores:
    """Distances in a space of two numbers a stage: the mean logarithm of the deviations of its channels over places,
    and the logarithm of the mean size of their means.

    A photo smoother than all good ones lies near the middle of them in hundreds of coordinates, because it has little
    of anything. Its distance to the nearest place or photo is then unusually low. In few coordinates it lies outside,
    as a photo too rough does (photos of cracked solar modules as usual and whole ones as novel: AUROC .84, where all
    moments have .69, the memory of places .25 and the nearest photos .09).
    """

    mean: Tensor
    """[2 * stages]"""
    whitener: Tensor
    """[2 * stages, 2 * stages]"""
    references: Tensor
    """The good photos, whitened: [N, 2 * stages]."""

    @classmethod
    def fit(cls, moments: Sequence[Tensor]) -> Self:
        """The scores fitted on the moments of good photos, [N, 2 * c_i] of each stage: means, then deviations."""
        activity = _activity(moments)
        spread = Mahalanobis.fit(activity)
        mean, whitener = spread.mean.float(), spread.whitener.float().contiguous()
        return cls(mean, whitener, (activity - mean) @ whitener.T)

    def __call__(self, moments: Sequence[Tensor]) -> Tensor:
        """Scores [N, 1] of photos: the mean distance to the nearest five good photos."""
        return mean_nearest((_activity(moments) - self.mean) @ self.whitener.T, self.references)[:, None]

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {"mean": self.mean, "whitener": self.whitener, "references": self.references}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The scores that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        check_tensors(tensors, {"mean": ("k",), "whitener": ("k", "k"), "references": ("N", "k")})
        return cls(tensors["mean"], tensors["whitener"], tensors["references"])


def _activity(moments: Sequence[Tensor]) -> Tensor:
    """[N, 2 * stages], float32"""
    numbers = []
    for stage in moments:
        means, deviations = stage.float().chunk(2, dim=1)
        numbers += [deviations.clamp(min=_LEAST).log().mean(dim=1), means.abs().mean(dim=1).clamp(min=_LEAST).log()]
    return torch.stack(numbers, dim=1)
