"""How strange a photo is beside reference photos: five scores, and one that needs no choice among them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from vae_ldm.latent_space.features import FeatureKind, FeatureSpace, Part, parts_of
from vae_ldm.latent_space.patch_memory import PatchMemory

ScoreName = Literal["combination", "knn", "mahalanobis", "patch", "reconstruction", "elbo"]
SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)
SINGLE_SCORES = SCORE_NAMES[1:]

NUM_NEIGHBOURS = 5
_NUM_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Observations:
    """What a model sees in N photos, from which every score follows."""

    vectors: Mapping[Part, Tensor]
    """Raw feature vectors [N, D] of each part."""
    patches: Tensor
    """[N, P, C]: of all places of a photo, or of some."""
    squared_error: Tensor
    """Mean squared error of the reconstruction over channels and pixels, images in [-1, 1]: [N]."""
    kl: Tensor
    """KL of the posterior against the unit Gaussian in nats: [N]."""

    def __len__(self) -> int:
        return len(self.kl)

    def __getitem__(self, rows: Tensor) -> "Observations":
        vectors = {part: values[rows] for part, values in self.vectors.items()}
        return Observations(vectors, self.patches[rows], self.squared_error[rows], self.kl[rows])

    @classmethod
    def cat(cls, some: "list[Observations]") -> "Observations":
        """All photos of several, in order."""
        return cls(
            {part: torch.cat([each.vectors[part] for each in some]) for part in some[0].vectors},
            torch.cat([each.patches for each in some]),
            torch.cat([each.squared_error for each in some]),
            torch.cat([each.kl for each in some]),
        )


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Distance from the mean in units of the covariance, which is shrunk towards a multiple of the identity."""

    mean: Tensor
    """[D], float64"""
    whitener: Tensor
    """[D, D], float64: whitener^T whitener is the inverse of the covariance."""

    @classmethod
    def fit(cls, vectors: Tensor) -> Self:
        """Of vectors [N, D], shrunk by as much as Ledoit and Wolf (2004, eq. 14) show to be best; float64."""
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


@dataclass(frozen=True, eq=False)
class Scorers:
    """The five single scores, fitted on reference photos. High is strange in each."""

    space: FeatureSpace
    references: Tensor
    """Unit vectors [N, dim] of the reference photos in that space."""
    scale: Mapping[Part, Tensor]
    """Standard deviation of each raw number [D], by which parts of different scale become comparable."""
    mahalanobis: Mahalanobis
    memory: PatchMemory
    noise_variance: Tensor
    """Of a pixel, of the decoder's Gaussian; the mean squared error of the reference photos is its best value."""
    num_pixels: int
    """Numbers that make up a picture."""

    @classmethod
    def fit(cls, kind: FeatureKind, seen: Observations, *, num_pixels: int, memory_size: int = 4096) -> Self:
        """Of at least two reference photos."""
        space = FeatureSpace.fit(kind, seen.vectors)
        scale = {part: _deviation(seen.vectors[part]) for part in parts_of(kind)}
        return cls(
            space,
            space(seen.vectors),
            scale,
            Mahalanobis.fit(_stacked(seen.vectors, scale)),
            PatchMemory.fit(seen.patches.flatten(0, 1), size=memory_size),
            seen.squared_error.double().mean().clamp(min=1e-8),
            num_pixels,
        )

    def __call__(self, seen: Observations) -> Tensor:
        """Scores [N, 5] in the order of SINGLE_SCORES.

        knn: mean distance to the nearest five reference photos, in [0, 2]. mahalanobis: see there. patch: the
        strangest place, in standard deviations of the patches. reconstruction: root mean square error, in [0, 2].
        elbo: the negative evidence lower bound in nats a number of the picture (Kingma & Welling 2013, eq. 3, at the
        posterior's mean), whose decoder has the variance that suits the reference photos best (Rybkin et al. 2021).
        """
        vectors = self.space(seen.vectors)
        # Chunked, because a scan's batch times all references may not fit.
        near = [torch.cdist(some, self.references) for some in vectors.split(1024)]
        knn = torch.cat([each.topk(min(NUM_NEIGHBOURS, len(self.references)), largest=False).values for each in near])
        error = seen.squared_error.double()
        likelihood = (error / self.noise_variance + (2 * torch.pi * self.noise_variance).log()) / 2
        found = (
            knn.mean(dim=1),
            self.mahalanobis(_stacked(seen.vectors, self.scale)),
            self.memory(seen.patches).amax(dim=1),
            error.sqrt(),
            likelihood + seen.kl.double() / self.num_pixels,
        )
        return torch.stack([score.double() for score in found], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs beside kind and size, for a safetensors file."""
        return {
            **{f"space.{name}": tensor for name, tensor in self.space.tensors().items()},
            **{f"scale.{part}": deviation for part, deviation in self.scale.items()},
            "references": self.references,
            "mahalanobis.mean": self.mahalanobis.mean,
            "mahalanobis.whitener": self.mahalanobis.whitener,
            "memory.patches": self.memory.patches,
            "memory.mean": self.memory.mean,
            "memory.std": self.memory.std,
            "noise_variance": self.noise_variance,
        }

    @classmethod
    def from_tensors(cls, kind: FeatureKind, tensors: Mapping[str, Tensor], *, num_pixels: int) -> Self:
        """The scorers that `tensors()` came from. Raises KeyError where one is missing."""
        space = {name.removeprefix("space."): each for name, each in tensors.items() if name.startswith("space.")}
        return cls(
            FeatureSpace.from_tensors(kind, space),
            tensors["references"],
            {part: tensors[f"scale.{part}"] for part in parts_of(kind)},
            Mahalanobis(tensors["mahalanobis.mean"], tensors["mahalanobis.whitener"]),
            PatchMemory(tensors["memory.patches"], tensors["memory.mean"], tensors["memory.std"]),
            tensors["noise_variance"],
            num_pixels,
        )


def _deviation(vectors: Tensor) -> Tensor:
    deviation = vectors.std(dim=0, correction=0)
    return deviation.clamp(min=1e-3 * deviation.max().item() + 1e-12)


def _stacked(vectors: Mapping[Part, Tensor], scale: Mapping[Part, Tensor]) -> Tensor:
    return torch.cat([vectors[part] / deviation for part, deviation in scale.items()], dim=1)


def held_out_scores(kind: FeatureKind, seen: Observations, *, num_pixels: int) -> Tensor:
    """Scores [N, 5] of the reference photos themselves, each by scorers fitted on other folds (cross-validation)."""
    num_folds = min(_NUM_FOLDS, len(seen) // 2)
    folds = torch.arange(len(seen)) % num_folds
    scores = torch.empty(len(seen), len(SINGLE_SCORES), dtype=torch.float64)
    for fold in range(num_folds):
        rows = (folds == fold).nonzero().flatten()
        others = (folds != fold).nonzero().flatten()
        scorers = Scorers.fit(kind, seen[others], num_pixels=num_pixels, memory_size=1024)
        scores[rows] = scorers(seen[rows])
    return scores


@dataclass(frozen=True, eq=False)
class Combination:
    """The single scores on one scale, and their mean."""

    center: Tensor
    """[5], float64"""
    deviation: Tensor
    """[5], float64"""

    @classmethod
    def fit(cls, held_out: Tensor) -> Self:
        """Of held-out scores [N, 5] of reference photos. Calibration photos stay out of it, so p-values stay exact."""
        return cls(held_out.mean(dim=0), held_out.std(dim=0, correction=0).clamp(min=1e-9))

    def __call__(self, scores: Tensor) -> Tensor:
        """[N] of scores [N, 5]."""
        return ((scores - self.center) / self.deviation).mean(dim=1)
