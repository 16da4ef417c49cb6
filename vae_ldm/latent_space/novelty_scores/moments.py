"""How far the means and deviations of a photo's stages lie from those of good photos, wherever its parts lie."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.distances import Mahalanobis
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures, numbered
from vae_ldm.latent_space.stored_tensors import check_lengths, check_tensors

NUM_MOMENT_SCORES = 2


@dataclass(frozen=True, eq=False)
class MomentScores:
    """Mahalanobis distances of all stages together, and of one stage after the other.

    Of all stages together and of each as Lee et al. (2018, A Simple Unified Framework for Detecting Out-of-Distribution
    Samples) do; covariances are shrunk as Ledoit and Wolf (2004) do, so that few photos are enough.
    Means say what a photo shows, and deviations how much it varies: a photo too smooth is as far as one too rough.
    """

    mean: Tensor
    """[D] of all moments"""
    whitener: Tensor
    """Lower triangular [D, D]: (moments - mean) @ whitener.T has about unit covariance."""
    stage_whiteners: tuple[Tensor, ...]
    """[D_i, D_i] of each stage but the first, which sees edges and colours only; of the first where it is the only
    one."""

    @classmethod
    def fit(cls, good: PhotoFeatures) -> Self:
        """The scores fitted on good photos."""
        together = Mahalanobis.fit(_stacked(good.moments))
        stages = tuple(Mahalanobis.fit(stage).whitener.float().contiguous() for stage in _later(good.moments))
        return cls(together.mean.float(), together.whitener.float().contiguous(), stages)

    def __call__(self, seen: PhotoFeatures, whitened: Tensor | None = None) -> Tensor:
        """Scores [N, 2]: the distance of all moments together, and the sum of the distances of the stages.

        `whitened` is what `whiten` gives for the photos, where that is known already.
        """
        whitened = self.whiten(seen.moments) if whitened is None else whitened
        together = whitened.square().sum(dim=1).sqrt()
        centered = (_stacked(seen.moments) - self.mean).split([stage.shape[1] for stage in seen.moments], dim=1)
        stages = [
            (stage @ whitener.T).square().sum(dim=1).sqrt()
            for stage, whitener in zip(_later(centered), self.stage_whiteners, strict=True)
        ]
        return torch.stack([together, torch.stack(stages).sum(dim=0)], dim=1)

    def whiten(self, stages: Iterable[Tensor]) -> Tensor:
        """Coordinates [N, D] in which the moments of good photos have about unit covariance; `stages` [N, D_i] each."""
        moments = _stacked(tuple(stages))
        check_lengths(self.mean, moments)
        return (moments - self.mean) @ self.whitener.T

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        stages = {f"stage_whitener.{index}": _packed(whitener) for index, whitener in enumerate(self.stage_whiteners)}
        return {"mean": self.mean, "whitener": _packed(self.whitener), **stages}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The scores that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        stages = numbered(tensors, "stage_whitener")
        check_tensors(tensors, {"mean": ("D",), **{name: (f"numbers of {name}",) for name in stages}})
        dim = len(tensors["mean"])
        check_tensors(tensors, {"whitener": (dim * (dim + 1) // 2,)})
        whiteners = tuple(_unpacked(tensors[name], name) for name in stages)
        return cls(tensors["mean"], _unpacked(tensors["whitener"], "whitener"), whiteners)


def _packed(triangular: Tensor) -> Tensor:
    """The numbers [D * (D + 1) / 2] of a lower triangular matrix [D, D] that are not zero anyway."""
    rows, columns = torch.tril_indices(*triangular.shape)
    return triangular[rows, columns]


def _unpacked(numbers: Tensor, name: str) -> Tensor:
    """The matrix that `_packed` had. Raises ValueError where the numbers are those of none."""
    dim = (math.isqrt(8 * len(numbers) + 1) - 1) // 2
    if dim * (dim + 1) // 2 != len(numbers):
        raise ValueError(f"{name} has {len(numbers)} numbers, which are those of no triangular matrix")
    triangular = numbers.new_zeros(dim, dim)
    rows, columns = torch.tril_indices(dim, dim)
    triangular[rows, columns] = numbers
    return triangular


def _stacked(moments: Sequence[Tensor]) -> Tensor:
    return torch.cat([stage.float() for stage in moments], dim=1)


def _later(stages: Sequence[Tensor]) -> Sequence[Tensor]:
    return stages[1:] or stages
