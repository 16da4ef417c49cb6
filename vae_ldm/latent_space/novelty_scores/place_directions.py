"""Whether a place of a photo departs from places of good photos in a direction in which damage leads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.distances import Mahalanobis
from vae_ldm.latent_space.novelty_scores.directions import NUM_CLUSTERS, DirectionScores
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures
from vae_ldm.latent_space.stored_tensors import check_lengths, check_tensors

MAX_PLACES = 24_000
"""The covariance of places is that of so many at most."""


@dataclass(frozen=True, eq=False)
class PlaceDirections:
    """The directions of `DirectionScores`, for the places that damage covers instead of whole photos."""

    weights: Tensor
    """[kinds, clusters, C]: a projection of a place on a direction, whitened, is its product with these."""
    offsets: Tensor
    """[kinds, clusters]: the same of the mean place of good photos."""

    @classmethod
    def fit(cls, good: PhotoFeatures, steps: Tensor, kinds: Tensor, num_kinds: int, generator: torch.Generator) -> Self:
        """Fitted on good photos, and on the `steps` [M, C] of damaged copies of `kinds`, int64 [M]."""
        num_photos, num_places, dim = good.patches.shape
        each = min(num_places, max(1, MAX_PLACES // num_photos))
        places = torch.rand(num_photos, num_places, generator=generator).argsort(dim=1)[:, :each]
        whitening = Mahalanobis.fit(good.patches.gather(1, places[..., None].expand(-1, -1, dim)).flatten(0, 1))
        whitener = whitening.whitener.float()
        directions = DirectionScores.fit(steps @ whitener.T, kinds, num_kinds).directions
        weights = directions @ whitener
        return cls(weights, weights @ whitening.mean.float())

    def __call__(self, seen: PhotoFeatures) -> Tensor:
        """Scores [N, P, kinds] of the places: the largest projection on a direction of the kind, squared."""
        check_lengths(self.weights[0, 0], seen.patches)
        projections = seen.patches.float() @ self.weights.flatten(0, 1).T - self.offsets.flatten()
        return projections.unflatten(2, self.offsets.shape).amax(dim=3).clamp(min=0).square()

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {"weights": self.weights, "offsets": self.offsets}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The directions that `tensors()` came from. Raises KeyError where one is missing, ValueError for others."""
        check_tensors(tensors, {"weights": ("J", NUM_CLUSTERS, "C"), "offsets": ("J", NUM_CLUSTERS)})
        return cls(tensors["weights"], tensors["offsets"])
