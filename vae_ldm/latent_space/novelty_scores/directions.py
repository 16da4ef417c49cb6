"""Whether a photo departs from good photos in a direction in which damage leads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.latent_space.stored_tensors import check_lengths, check_tensors

NUM_CLUSTERS = 4
"""More than one, because some kinds go both ways (brighter and darker), and one mean of both leads nowhere."""
_STEPS_A_CLUSTER = 12
_FEWEST_STEPS = 3
_NUM_ROUNDS = 15


@dataclass(frozen=True, eq=False)
class DirectionScores:
    """For each kind of made damage a few directions, in coordinates in which good photos have unit covariance.

    There the direction from a photo to its damaged copy is that of Fisher's linear discriminant between them.
    """

    directions: Tensor
    """Unit vectors [kinds, clusters, D]; zero where a kind has fewer clusters, or no copies at all."""

    @classmethod
    def fit(cls, steps: Tensor, kinds: Tensor, num_kinds: int) -> Self:
        """The directions of whitened steps [M, D] from a photo to its copy, of `kinds` [M] in 0 .. num_kinds - 1."""
        directions = steps.new_zeros(num_kinds, NUM_CLUSTERS, steps.shape[1])
        for kind in range(num_kinds):
            found = _clusters(steps[kinds == kind])
            directions[kind, : len(found)] = found
        return cls(directions)

    def __call__(self, whitened: Tensor) -> Tensor:
        """Scores [N, kinds] of whitened vectors [N, D]: the largest projection on a direction of the kind, squared, and
        0 where all are negative."""
        check_lengths(self.directions[0, 0], whitened)
        projections = whitened @ self.directions.flatten(0, 1).T
        return projections.view(len(whitened), *self.directions.shape[:2]).amax(dim=2).clamp(min=0).square()

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {"directions": self.directions}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The scores that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        check_tensors(tensors, {"directions": ("J", NUM_CLUSTERS, "D")})
        return cls(tensors["directions"])


def _clusters(steps: Tensor) -> Tensor:
    """Unit means [clusters, D] of steps [M, D] that go the same way: spherical k-means (Dhillon and Modha 2001).

    It starts at both ends of the first principal axes, so that nothing is drawn.
    """
    if not len(steps):
        return steps
    mean = steps.mean(dim=0)
    count = max(1, min(NUM_CLUSTERS, len(steps) // _STEPS_A_CLUSTER))
    if count == 1:
        return F.normalize(mean, dim=0)[None]
    # The axes by the products of the steps: there are far fewer steps than numbers in each.
    squares, mixtures = torch.linalg.eigh((steps - mean) @ (steps - mean).T)
    axes = ((steps - mean).T @ mixtures.flip(1)[:, :count]).T
    # The eigenvectors' length is then that of all steps along the axis; a deviation is that of one step.
    spread = F.normalize(axes, dim=1) * (squares.flip(0)[:count, None].clamp(min=0) / len(steps)).sqrt()
    centers = torch.stack([mean + sign * spread[index // 2] for index, sign in enumerate((1, -1) * count)][:count])
    centers, units = F.normalize(centers, dim=1), F.normalize(steps, dim=1)
    nearest = torch.full((len(steps),), -1)
    for _ in range(_NUM_ROUNDS):
        before, nearest = nearest, (units @ centers.T).argmax(dim=1)
        if torch.equal(before, nearest):
            break
        for cluster in range(count):
            members = steps[nearest == cluster]
            if len(members) >= _FEWEST_STEPS:
                centers[cluster] = F.normalize(members.mean(dim=0), dim=0)
    kept = (units @ centers.T).argmax(dim=1).bincount(minlength=count) >= _FEWEST_STEPS
    return centers[kept] if kept.any() else F.normalize(mean, dim=0)[None]
