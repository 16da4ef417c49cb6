"""How strange each place of a photo is: what the memory of places and what the directions of damage say, as one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.combination import SHARPNESS
from vae_ldm.latent_space.novelty_scores.families import RawScores
from vae_ldm.latent_space.stored_tensors import check_tensors


@dataclass(frozen=True, eq=False)
class PlaceMaps:
    """The soft maximum of both, each in standard deviations over the places of good photos.

    Directions know what damage looks like, the memory also what nobody has thought of (pixel AUROC on kinds of made
    damage that were left out, memory, directions and both: damage_cans .80, .83, .85; product_clothing .61, .79, .78).
    """

    kinds: Tensor
    """Which kinds of made damage count: bool [kinds]."""
    centers: Tensor
    """[2], float64"""
    deviations: Tensor
    """[2], float64"""

    @classmethod
    def fit(cls, good: RawScores, kinds: Tensor) -> Self:
        """Fitted on good photos that nothing else was fitted on."""
        both = _both(good, kinds).flatten(1)
        return cls(kinds.clone(), both.mean(dim=1), both.std(dim=1, correction=0).clamp(min=1e-9))

    def __call__(self, raw: RawScores) -> Tensor:
        """Maps [N, P], float64: about 0 where usual."""
        standardised = (_both(raw, self.kinds) - self.centers[:, None, None]) / self.deviations[:, None, None]
        return (SHARPNESS * standardised).logsumexp(dim=0) / SHARPNESS

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {"kinds": self.kinds, "centers": self.centers, "deviations": self.deviations}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], num_kinds: int) -> Self:
        """The maps that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        check_tensors(tensors, {"kinds": (num_kinds,)}, dtype=torch.bool)
        check_tensors(tensors, {"centers": (2,), "deviations": (2,)}, dtype=torch.float64)
        return cls(tensors["kinds"], tensors["centers"], tensors["deviations"])


def _both(raw: RawScores, kinds: Tensor) -> Tensor:
    """[2, N, P]"""
    return torch.stack([raw.maps.double(), raw.place_directions[..., kinds].double().mean(dim=2).sqrt()])
