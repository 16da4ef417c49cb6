"""How strange a photo is beside reference photos: six scores, and one that needs no choice among them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.choices import FeatureKind, ScoreName
from vae_ldm.latent_space.distances import Mahalanobis, PixelNeighbours, mean_nearest
from vae_ldm.latent_space.features import FeaturePart, Whitening, parts_of
from vae_ldm.latent_space.patch_memory import PatchMemory
from vae_ldm.latent_space.stored_tensors import Shape, check_lengths, check_tensors

SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)
SINGLE_SCORES = SCORE_NAMES[1:]
NUM_COMBINED = 4
"""The combination is of the first four. Reconstruction error and ELBO stay out of it: an autoencoder gives back a
plain photo better than the usual ones, however strange it is, and then they are upside down."""

_ROUNDING = 1e-4
"""By how much the cosine of a picture with itself may differ from 1 when it is computed in another batch."""
STRANGEST_SHARE = 1 / 50
_NUM_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Observations:
    """What a model sees in N photos, from which every score follows."""

    vectors: Mapping[FeaturePart, Tensor]
    """Raw feature vectors [N, D] of each part."""
    patches: Tensor
    """[N, P, C]: of all places of a photo, or of some."""
    thumbnails: Tensor
    """[N, D]: the pixels of small copies, in [-1, 1]."""
    squared_error: Tensor
    """Mean squared error of the reconstruction over channels and pixels, images in [-1, 1]: [N]."""
    kl: Tensor
    """KL of the posterior against the unit Gaussian in nats: [N]."""

    def __len__(self) -> int:
        return len(self.kl)

    def __getitem__(self, rows: Tensor) -> "Observations":
        vectors = {part: values[rows] for part, values in self.vectors.items()}
        return Observations(vectors, self.patches[rows], self.thumbnails[rows], self.squared_error[rows], self.kl[rows])

    @classmethod
    def cat(cls, some: "list[Observations]") -> "Observations":
        """All photos of several, in order."""
        return cls(
            {part: torch.cat([each.vectors[part] for each in some]) for part in some[0].vectors},
            torch.cat([each.patches for each in some]),
            torch.cat([each.thumbnails for each in some]),
            torch.cat([each.squared_error for each in some]),
            torch.cat([each.kl for each in some]),
        )


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Vectors of several parts brought to one scale: zero mean and unit variance of every number, then stacked."""

    mean: Mapping[FeaturePart, Tensor]
    """[D] of each part"""
    deviation: Mapping[FeaturePart, Tensor]
    """[D] of each part"""

    @classmethod
    def fit(cls, vectors: Mapping[FeaturePart, Tensor]) -> Self:
        """The standardisation fitted on raw vectors [N, D] of each part.

        A number that hardly varies is damped, not blown up.
        """
        deviation = {part: some.std(dim=0, correction=0) for part, some in vectors.items()}
        floors = {part: 1e-3 * some.max().item() + 1e-12 for part, some in deviation.items()}
        return cls(
            {part: some.mean(dim=0) for part, some in vectors.items()},
            {part: some.clamp(min=floors[part]) for part, some in deviation.items()},
        )

    def __call__(self, vectors: Mapping[FeaturePart, Tensor]) -> Tensor:
        """Stacked vectors [N, all D]."""
        return torch.cat([self._standardised(vectors, part) for part in self.mean], dim=1)

    def directions(self, vectors: Mapping[FeaturePart, Tensor]) -> Tensor:
        """Unit vectors [N, all D] in which each part weighs the same."""
        units = [F.normalize(self._standardised(vectors, part), dim=1) for part in self.mean]
        return torch.cat(units, dim=1) / len(units) ** 0.5

    def _standardised(self, vectors: Mapping[FeaturePart, Tensor], part: FeaturePart) -> Tensor:
        check_lengths(self.mean[part], vectors[part])
        return (vectors[part] - self.mean[part]) / self.deviation[part]


@dataclass(frozen=True, eq=False)
class Scorers:
    """The six single scores, fitted on reference photos. High is strange in each."""

    standardisation: Standardisation
    references: Tensor
    """Unit vectors [N, D] of the reference photos."""
    mahalanobis: Mahalanobis
    memory: PatchMemory
    pixels: PixelNeighbours
    noise_variance: Tensor
    """Variance of a pixel in the decoder's Gaussian; the best value is the reference photos' mean squared error."""
    num_pixels: int
    """Numbers that make up a picture."""

    @classmethod
    def fit(cls, seen: Observations, *, num_pixels: int, memory_size: int = 1024) -> Self:
        """The scorers fitted on at least two reference photos."""
        standardisation = Standardisation.fit(seen.vectors)
        return cls(
            standardisation,
            standardisation.directions(seen.vectors),
            Mahalanobis.fit(standardisation(seen.vectors)),
            PatchMemory.fit(seen.patches.flatten(0, 1), size=memory_size),
            PixelNeighbours.fit(seen.thumbnails),
            seen.squared_error.double().mean().clamp(min=1e-8),
            num_pixels,
        )

    def __call__(self, seen: Observations) -> Tensor:
        """Scores [N, 6] in the order of SINGLE_SCORES.

        knn: mean distance to the nearest five reference photos by direction, in [0, 2] (Sun et al. 2022); vectors are
        not whitened for it, because as many axes as photos make all photos equally far apart. mahalanobis: of whitened
        vectors, see there. patch: mean over the strangest fiftieth of its places. pixels: mean distance to the
        nearest five by whitened principal components of small copies. reconstruction: root mean square
        error, in [0, 2]. elbo: the negative evidence lower bound in nats a number of the picture (Kingma & Welling
        2013, eq. 3, at the posterior's mean), with the variance that suits the reference photos best (Rybkin 2021).
        """
        places = self.memory(seen.patches)
        strangest = places.topk(math.ceil(places.shape[1] * STRANGEST_SHARE), dim=1).values
        error = seen.squared_error.double()
        likelihood = (error / self.noise_variance + (2 * torch.pi * self.noise_variance).log()) / 2
        found = (
            mean_nearest(self.standardisation.directions(seen.vectors), self.references),
            self.mahalanobis(self.standardisation(seen.vectors)),
            strangest.mean(dim=1),
            self.pixels(seen.thumbnails),
            error.sqrt(),
            likelihood + seen.kl.double() / self.num_pixels,
        )
        return torch.stack([score.double() for score in found], dim=1)

    def are_references(self, seen: Observations) -> Tensor:
        """Whether each picture is one that the scorers were fitted on, or has the same vectors: bool [N]."""
        cosines = self.standardisation.directions(seen.vectors) @ self.references.T
        return cosines.amax(dim=1) > 1 - _ROUNDING

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs beside the size, for a safetensors file."""
        return {
            **{f"mean.{part}": mean for part, mean in self.standardisation.mean.items()},
            **{f"deviation.{part}": deviation for part, deviation in self.standardisation.deviation.items()},
            "references": self.references,
            "mahalanobis.mean": self.mahalanobis.mean,
            "mahalanobis.whitener": self.mahalanobis.whitener,
            "memory.patches": self.memory.patches,
            "memory.mean": self.memory.mean,
            "memory.std": self.memory.std,
            "pixels.mean": self.pixels.whitening.mean,
            "pixels.projection": self.pixels.whitening.projection,
            "pixels.references": self.pixels.references,
            "noise_variance": self.noise_variance,
        }

    @classmethod
    def from_tensors(cls, kind: FeatureKind, tensors: Mapping[str, Tensor], *, num_pixels: int) -> Self:
        """The scorers that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        parts = parts_of(kind)
        for part in parts:
            check_tensors(tensors, {f"mean.{part}": ("D",), f"deviation.{part}": ("D",)})
        dim = sum(len(tensors[f"mean.{part}"]) for part in parts)
        check_tensors(
            tensors,
            {
                "references": ("N", dim),
                "memory.patches": ("M", "C"),
                "memory.mean": ("C",),
                "memory.std": ("C",),
                "pixels.mean": ("D",),
                "pixels.projection": ("k", "D"),
                "pixels.references": ("N", "k"),
            },
        )
        in_double: dict[str, Shape] = {
            "mahalanobis.mean": (dim,),
            "mahalanobis.whitener": (dim, dim),
            "noise_variance": (),
        }
        check_tensors(tensors, in_double, dtype=torch.float64)
        if num_pixels < 1:
            raise ValueError(f"num_pixels is {num_pixels}")
        return cls(
            Standardisation(
                {part: tensors[f"mean.{part}"] for part in parts},
                {part: tensors[f"deviation.{part}"] for part in parts},
            ),
            tensors["references"],
            Mahalanobis(tensors["mahalanobis.mean"], tensors["mahalanobis.whitener"]),
            PatchMemory(tensors["memory.patches"], tensors["memory.mean"], tensors["memory.std"]),
            PixelNeighbours(
                Whitening(tensors["pixels.mean"], tensors["pixels.projection"]), tensors["pixels.references"]
            ),
            tensors["noise_variance"],
            num_pixels,
        )


def held_out_scores(seen: Observations, *, num_pixels: int) -> Tensor:
    """Scores [N, 6] of the reference photos themselves, each by scorers fitted on other folds (cross-validation)."""
    num_folds = min(_NUM_FOLDS, len(seen))
    folds = torch.arange(len(seen)) % num_folds
    scores = torch.empty(len(seen), len(SINGLE_SCORES), dtype=torch.float64)
    for fold in range(num_folds):
        rows, others = (folds == fold).nonzero().flatten(), (folds != fold).nonzero().flatten()
        scores[rows] = Scorers.fit(seen[others], num_pixels=num_pixels, memory_size=256)(seen[rows])
    return scores


@dataclass(frozen=True, eq=False)
class Combination:
    """The scores that compare with reference photos, on one scale, and the highest of them.

    The highest and not the mean: what is strange to one of them is often plain to the others (heat to a backbone that
    knows things by daylight, a dent to pixels), and the mean would drown it.
    """

    center: Tensor
    """[6], float64"""
    deviation: Tensor
    """[6], float64"""

    @classmethod
    def fit(cls, held_out: Tensor) -> Self:
        """The combination fitted on held-out scores [N, 6] of reference photos.

        Calibration photos stay out of it, so p-values stay exact.
        """
        return cls(held_out.mean(dim=0), held_out.std(dim=0, correction=0).clamp(min=1e-9))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The combination of a file's tensors. Raises KeyError where one is missing, ValueError for any others."""
        names = "combination.center", "combination.deviation"
        check_tensors(tensors, dict.fromkeys(names, (len(SINGLE_SCORES),)), dtype=torch.float64)
        return cls(*(tensors[name] for name in names))

    def __call__(self, scores: Tensor) -> Tensor:
        """[N] of scores [N, 6]."""
        return ((scores - self.center) / self.deviation)[:, :NUM_COMBINED].amax(dim=1)
