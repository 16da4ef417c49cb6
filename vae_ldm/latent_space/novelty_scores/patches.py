"""How far the places of a photo lie from the nearest place of good photos (PatchCore, Roth et al. 2022)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.leading_axes import LeadingAxes
from vae_ldm.latent_space.novelty_scores.patch_memory import farthest_first
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures
from vae_ldm.latent_space.stored_tensors import check_lengths, check_tensors

NUM_AXES = 64
MEMORY_SIZE = 1024
POOL_SIZE = 20_000
"""The memory is chosen among about so many places, as many of each photo."""
STRANGEST_SHARE = 1 / 50
NUM_PATCH_SCORES = 2


@dataclass(frozen=True, eq=False)
class PatchScores:
    """Distances to a memory of places of good photos, on their principal axes.

    Axes are not brought to unit variance: what varies little among good photos says little of damage either
    (damage_cans: AUROC .950 as they are, .912 standardised).
    """

    axes: Tensor
    """[k, C]"""
    memory: Tensor
    """[M, k]"""

    @classmethod
    def fit(cls, good: PhotoFeatures, generator: torch.Generator) -> Self:
        """The scores fitted on places drawn evenly from all good photos, 1,024 of which are kept by a greedy k-centre.

        Of more photos than the pool has places, so many are drawn.
        """
        num_photos, num_places = good.patches.shape[:2]
        photos = torch.randperm(num_photos, generator=generator)[:POOL_SIZE]
        each = min(num_places, max(1, POOL_SIZE // len(photos)))
        places = torch.rand(len(photos), num_places, generator=generator).argsort(dim=1)[:, :each]
        # Only what is drawn is copied: all places of 2,500 photos are 190 MB in half precision.
        pool = good.patches[photos[:, None], places].flatten(0, 1).float()
        axes = LeadingAxes.fit(pool, NUM_AXES, generator).axes
        pool = pool @ axes.T
        return cls(axes, pool[farthest_first(pool, MEMORY_SIZE)].clone())

    def maps(self, seen: PhotoFeatures) -> Tensor:
        """Distances [N, P] of the places of photos to the nearest kept one."""
        check_lengths(self.axes[0], seen.patches)
        squares = self.memory.square().sum(dim=1)
        found = []
        for patches in seen.patches.split(32):
            places = patches.float().flatten(0, 1) @ self.axes.T
            # |a - b|^2 = |a|^2 - 2 a.b + |b|^2, which is one matrix product.
            nearest = torch.addmm(squares, places, self.memory.T, alpha=-2).amin(dim=1)
            distances = (nearest + places.square().sum(dim=1)).clamp(min=0).sqrt()
            found.append(distances.view(patches.shape[:2]))
        return torch.cat(found)

    def __call__(self, seen: PhotoFeatures) -> Tensor:
        """Scores [N, 2]: the mean over the strangest fiftieth of the places, and over all places."""
        return summary(self.maps(seen))

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {"axes": self.axes, "memory": self.memory}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The scores that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        check_tensors(tensors, {"axes": ("k", "C"), "memory": ("M", "k")})
        return cls(tensors["axes"], tensors["memory"])


def summary(maps: Tensor) -> Tensor:
    """Means [N, 2] of maps [N, P] over the strangest fiftieth of the places, and over all places."""
    strangest = maps.topk(math.ceil(maps.shape[1] * STRANGEST_SHARE), dim=1).values
    return torch.stack([strangest.mean(dim=1), maps.mean(dim=1)], dim=1)
