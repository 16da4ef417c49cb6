"""How much speaks for each known class of damage in a photo, and how little for any: a Gaussian process on features.

One process tells classes apart and knows where it has seen photos: away from them its mean falls to 0 and its variance
rises (Kemmler, Rodner, Wacker & Denzler 2013, One-class classification with Gaussian processes).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.leading_axes import LeadingAxes
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures, numbered
from vae_ldm.latent_space.stored_tensors import check_lengths, check_tensors

NUM_AXES = 64
DAMPING = 0.01
"""Axes that hold less than this share of the largest variance are damped rather than blown up."""
KERNEL_RATE = 1.0
"""The kernel of two photos at the median distance is exp(-KERNEL_RATE)."""
NOISE = 0.1
"""Variance of the noise in the 0 and 1 that the process is fitted to."""
MAX_PHOTOS = 3000
"""The process is fitted to so many photos at most, drawn at random. On damage_solar the most like class is right for
.678 of the photos by all 2,811, for .642 by 1,024 and for .605 by 512."""
NUM_LANDMARKS = 512
"""The variance, which would take a matrix of all pairs, is that of so many photos: AUROC of a class left out .655 by
512 and by all. Drawn at random: those of a greedy k-centre are the odd ones (.639)."""
_MAX_DISTANCES = 400
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class ClassCoordinates:
    """Photos as points whose squared distance d^2 gives the kernel exp(-d^2).

    All moments together and each layout but the first (the pixels of a small copy, which tell classes apart badly) are
    brought to their whitened leading axes, and count alike.
    """

    means: tuple[Tensor, ...]
    """[D_i] of each part: the moments of all stages, then the layouts."""
    projections: tuple[Tensor, ...]
    """[k_i, D_i]"""

    @classmethod
    def fit(cls, photos: PhotoFeatures, num_axes: int, generator: torch.Generator) -> Self:
        """The coordinates fitted on photos of known damage, with at most `num_axes` a part."""
        scales = torch.cat([stage.float().std().clamp(min=1e-6).expand(stage.shape[1]) for stage in photos.moments])
        means, projections, points = [], [], []
        for index, part in enumerate(_parts(photos)):
            scale = scales if index == 0 else torch.ones(part.shape[1])
            axes = LeadingAxes.fit(part.float() / scale, num_axes, generator)
            variances = axes.deviations.square()
            deviations = (variances + DAMPING * variances[0] + 1e-12).sqrt()
            mean, projection = axes.mean * scale, axes.axes / deviations[:, None] / scale
            points.append((part.float() - mean) @ projection.T)
            length = points[-1].square().sum(dim=1).mean().sqrt().clamp(min=1e-6)
            points[-1] /= length
            means.append(mean)
            projections.append(projection / length)
        some = torch.cat(points, dim=1)[torch.randperm(len(photos), generator=generator)[:_MAX_DISTANCES]]
        squared = F.pdist(some).square()
        factor = (KERNEL_RATE / squared.median().clamp(min=1e-6)).sqrt() if len(squared) else torch.tensor(1.0)
        return cls(tuple(means), tuple((factor * each).contiguous() for each in projections))

    def __call__(self, seen: PhotoFeatures) -> Tensor:
        """Points [N, sum of k_i] of photos."""
        points = []
        for part, mean, projection in zip(_parts(seen), self.means, self.projections, strict=True):
            check_lengths(mean, part)
            points.append((part.float() - mean) @ projection.T)
        return torch.cat(points, dim=1)


@dataclass(frozen=True, eq=False)
class ClassEvidence:
    """The mean of a Gaussian process for each class, in standard deviations of its prediction.

    The process is fitted to 1 for photos of the class and 0 for all others, with a Gaussian kernel (Rasmussen &
    Williams 2006, equation 2.25). Its variance is that of the projected process (equation 8.23).
    """

    coordinates: ClassCoordinates
    points: Tensor
    """[N, k] of the photos fitted on, in random order. The first NUM_LANDMARKS are the landmarks of the variance."""
    weights: Tensor
    """[N, classes]: the mean is the kernel times these."""
    explained: Tensor
    """[M, r]: the squared length of the landmarks' kernel times these is the variance that the photos explain."""

    @classmethod
    def fit(
        cls, photos: PhotoFeatures, labels: Tensor, num_classes: int, num_axes: int, generator: torch.Generator
    ) -> Self:
        """The evidence fitted on photos of known damage with `labels`, int64 [N] in 0 .. num_classes - 1."""
        rows = torch.randperm(len(photos), generator=generator)[:MAX_PHOTOS]
        photos, labels = photos[rows], labels[rows]
        coordinates = ClassCoordinates.fit(photos, num_axes, generator)
        points = coordinates(photos)
        kernel = _kernel(points, points).double()
        explained = _explained(kernel[:, :NUM_LANDMARKS])
        kernel.diagonal().add_(NOISE)
        targets = F.one_hot(labels, num_classes).double()
        weights = torch.cholesky_solve(targets, torch.linalg.cholesky(kernel))
        return cls(coordinates, points, weights.float().contiguous(), explained.float().contiguous())

    def __call__(self, seen: PhotoFeatures) -> Tensor:
        """Evidence [N, classes], float64: about 0 for a photo that is like none."""
        kernel = _kernel(self.coordinates(seen), self.points)
        explained = (kernel[:, : len(self.explained)] @ self.explained).double().square().sum(dim=1).clamp(max=1)
        return (kernel @ self.weights).double() / (1 + NOISE - explained).sqrt()[:, None]

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {
            **{f"mean.{index}": each for index, each in enumerate(self.coordinates.means)},
            **{f"projection.{index}": each for index, each in enumerate(self.coordinates.projections)},
            "points": self.points,
            "weights": self.weights,
            "explained": self.explained,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], num_classes: int) -> Self:
        """The evidence that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        means, projections = numbered(tensors, "mean"), numbered(tensors, "projection")
        if len(means) != len(projections):
            raise ValueError(f"there are {len(means)} means of features and {len(projections)} projections")
        for index, (mean, projection) in enumerate(zip(means, projections, strict=True)):
            check_tensors(tensors, {mean: ("D",), projection: (f"axes of part {index}", "D")})
        num_axes = sum(len(tensors[name]) for name in projections)
        check_tensors(tensors, {"points": ("N", num_axes), "weights": ("N", num_classes)})
        check_tensors(tensors, {"explained": (min(NUM_LANDMARKS, len(tensors["points"])), "r")})
        coordinates = ClassCoordinates(
            tuple(tensors[name] for name in means), tuple(tensors[name] for name in projections)
        )
        return cls(coordinates, *(tensors[name] for name in ("points", "weights", "explained")))


def _parts(photos: PhotoFeatures) -> tuple[Tensor, ...]:
    """All moments, and the layouts but the first; that one where it is the only one."""
    return torch.cat(photos.moments, dim=1), *(photos.layouts[1:] or photos.layouts)


def _explained(kernel: Tensor) -> Tensor:
    """What brings the kernel [M] of a photo and the landmarks to the root of the variance that is explained: [M, r].

    `kernel` [N, M] is that of the photos fitted on, float64, the first M of which are the landmarks. On the principal
    axes of the features whose products are the kernel, the variance is a sum of terms of one sign, which single
    precision holds well.
    """
    variances, columns = torch.linalg.eigh(kernel[: kernel.shape[1]])
    kept = variances > _LEAST_VARIANCE * variances[-1]
    to_features = columns[:, kept] / variances[kept].sqrt()
    features = kernel @ to_features
    squares, mixtures = torch.linalg.eigh(features.T @ features)
    squares = squares.clamp(min=0)
    return to_features @ mixtures * (squares / (squares + NOISE)).sqrt()


def _kernel(points: Tensor, others: Tensor) -> Tensor:
    """Gaussian kernel [N, M] of points [N, k] and others [M, k]."""
    return (-torch.cdist(points, others).square()).exp()
