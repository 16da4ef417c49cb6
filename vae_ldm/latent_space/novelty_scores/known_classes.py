"""Which known classes of damage a photo may show, as a set that holds the right one at a rate that is named.

Mondrian conformal classification (Vovk, Gammerman & Shafer 2005, section 4.5): a p-value for each class, calibrated by
photos of this class alone, so that its rate holds within each class. A second p-value says whether the photo is like
any of the known photos; it is calibrated by all of them, and its rate holds over all classes. Both are cross-conformal:
the fits that calibrate are the ones that judge.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.conformal import CrossCalibration
from vae_ldm.latent_space.novelty_scores.class_evidence import NUM_AXES, ClassEvidence
from vae_ldm.latent_space.novelty_scores.folds import assign_folds
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures, below
from vae_ldm.latent_space.stored_tensors import check_tensors

NONE_SHARE = 0.4
"""This share of the level goes to "none of them", and the rest to telling classes apart (Bonferroni)."""
RIVAL_SHARE = 0.3
"""So much of the evidence for the strongest other class speaks against a class."""
_NUM_FOLDS = 5
_NUM_FOLDS_OF_FEW = 10
_FEW = 1000
"""Of fewer photos a fit on four fifths knows noticeably less than one on nine tenths."""
_PHOTOS_AN_AXIS = 2
_BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class ClassJudgement:
    """What is said of N photos and K known classes of damage."""

    p_values: Tensor
    """[N, K], float64: of the claim that the photo shows this class, in (0, 1]. Of the known photos at most about a
    share p has a p-value of p or less for its own class."""
    known_p_values: Tensor
    """[N], float64: of the claim that the photo is like those of any class. Calibrated by all classes together, so
    that an odd class may have more low ones than another."""
    evidence: Tensor
    """[N, K], float64: the mean over the fits, in standard deviations."""
    least_p_values: Tensor
    """[K], float64: the lowest that a class's own photos allow."""

    def sets(self, level: float) -> Tensor:
        """Which classes [N, K], bool, a photo may show: the right one is missing for at most about `level` of photos.

        A class of fewer photos than `can_be_left_out` takes is in every set.
        """
        return (self.p_values > level + 1e-12) | ~self.can_be_left_out(level)

    def can_be_left_out(self, level: float) -> Tensor:
        """Which classes [K], bool, have photos enough for a p-value of `level`: at 10 %, 16 different ones.

        The others are in every set, so they are to be named apart, as classes that nothing is known of.
        """
        return self.least_p_values <= level + 1e-12

    def none_of_them(self, level: float) -> Tensor:
        """Whether the set holds none of the classes that can be left out, where there are such: [N], bool."""
        known = self.can_be_left_out(level)
        return known.any() & ~(self.sets(level) & known).any(dim=1)

    @property
    def most_like(self) -> Tensor:
        """The class for which most speaks: int64 [N]. It is named for every photo, so look at the set as well."""
        return self.evidence.argmax(dim=1)


@dataclass(frozen=True, eq=False)
class KnownClasses:
    """Evidence for each class by one fit a fold, and what each fit says of the photos of its fold."""

    models: tuple[ClassEvidence, ...]
    labels: Tensor
    """int64 [N] of the known photos"""
    folds: Tensor
    """int64 [N]"""
    groups: Tensor
    """int64 [N]: photos of one group are near-duplicates, or of one series."""
    held_out: Tensor
    """Evidence [N, classes] by the fit of the photo's own fold, float64."""

    @classmethod
    def fit(cls, features: PhotoFeatures, labels: Tensor, groups: Tensor, num_classes: int, seed: int = 0) -> Self:
        """Fitted on photos [N] of known damage with `labels`, int64 [N] in 0 .. num_classes - 1.

        Photos of one of `groups`, int64 [N], are left out together and weigh as one photo. About 7 CPU s for 3,000
        photos of 11 classes. Raises ValueError where a class has no photo, or all photos are of one group.
        """
        empty = [label for label in range(num_classes) if not (labels == label).any()]
        if empty:
            raise ValueError(f"class {empty[0]} has no photo")
        folds = _stratified_folds(labels, groups, seed)
        num_folds = int(folds.max()) + 1
        if num_folds < 2:
            raise ValueError("known classes take at least 2 different photos, not 1")
        num_axes = min(NUM_AXES, max(2, len(labels) // _PHOTOS_AN_AXIS))
        models = []
        held_out = torch.empty(len(labels), num_classes, dtype=torch.float64)
        for fold in range(num_folds):
            kept = (folds != fold).nonzero().flatten()
            generator = torch.Generator().manual_seed(seed)
            models.append(ClassEvidence.fit(features[kept], labels[kept], num_classes, num_axes, generator))
            for rows in (folds == fold).nonzero().flatten().split(_BATCH_SIZE):
                held_out[rows] = models[-1](features[rows])
        return cls(tuple(models), labels, folds, groups, held_out)

    @property
    def num_classes(self) -> int:
        """How many classes are known."""
        return self.held_out.shape[1]

    def __call__(self, seen: PhotoFeatures) -> ClassJudgement:
        """What is said of new photos."""
        parts = [self._evidence(seen[start : start + _BATCH_SIZE]) for start in range(0, len(seen), _BATCH_SIZE)]
        evidence = torch.cat(parts, dim=1)
        strange = _strangeness(evidence)
        of_known, *of_classes = self._calibrations
        own = [calibration(strange[..., label]) for label, calibration in enumerate(of_classes)]
        least = [1 / (calibration.num_groups + 1) for calibration in of_classes]
        # A photo is as known as the class for which most speaks.
        known = of_known(-evidence.amax(dim=2))
        own_p_values = torch.stack(own, dim=1) / (1 - NONE_SHARE)
        return ClassJudgement(
            torch.minimum(own_p_values, known[:, None] / NONE_SHARE).clamp(max=1),
            known,
            evidence.mean(dim=0),
            torch.tensor(least, dtype=torch.float64) / (1 - NONE_SHARE),
        )

    @cached_property
    def _calibrations(self) -> list[CrossCalibration]:
        """Of the claim that a photo is like those of any class, and of each class by its own photos."""
        num_folds, strange = len(self.models), _strangeness(self.held_out)
        found = [CrossCalibration.fit(-self.held_out.amax(dim=1), self.folds, self.groups, num_folds)]
        for label in range(self.num_classes):
            rows = (self.labels == label).nonzero().flatten()
            found.append(CrossCalibration.fit(strange[rows, label], self.folds[rows], self.groups[rows], num_folds))
        return found

    def _evidence(self, seen: PhotoFeatures) -> Tensor:
        return torch.stack([model(seen) for model in self.models])

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        models = {
            f"model.{fold}.{name}": tensor
            for fold, model in enumerate(self.models)
            for name, tensor in model.tensors().items()
        }
        return {
            **models,
            "labels": self.labels,
            "folds": self.folds,
            "groups": self.groups,
            "held_out": self.held_out,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The classes that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        check_tensors(tensors, {"labels": ("N",), "folds": ("N",), "groups": ("N",)}, dtype=torch.int64)
        labels, folds = tensors["labels"], tensors["folds"]
        check_tensors(tensors, {"held_out": (len(labels), "classes")}, dtype=torch.float64)
        num_folds, num_classes = int(folds.max()) + 1, tensors["held_out"].shape[1]
        for name, found, count in (("folds", folds, num_folds), ("labels", labels, num_classes)):
            if not torch.equal(found.unique(), torch.arange(count)):
                raise ValueError(f"the {name} are not numbered from 0 without a gap")
        models = tuple(
            ClassEvidence.from_tensors(below(tensors, f"model.{fold}"), num_classes) for fold in range(num_folds)
        )
        return cls(models, labels, folds, tensors["groups"], tensors["held_out"])


def _strangeness(evidence: Tensor) -> Tensor:
    """How strange photos are for each class, [..., K], by evidence [..., K]."""
    best = evidence.topk(min(2, evidence.shape[-1]), dim=-1)
    own = torch.arange(evidence.shape[-1]) == best.indices[..., :1]
    # The strongest of the others; with one class nothing else speaks for a photo.
    rival = torch.where(own, best.values[..., 1:2] if evidence.shape[-1] > 1 else 0, best.values[..., :1])
    return RIVAL_SHARE * rival - evidence


def _stratified_folds(labels: Tensor, groups: Tensor, seed: int) -> Tensor:
    """Folds [N], int64, with about as many photos of each class; a group is in one fold and counts by its first photo.

    Small classes begin at different folds, so that they do not all meet in the first ones.
    """
    names, members = groups.unique(return_inverse=True)
    first = torch.full((len(names),), len(labels)).scatter_reduce(0, members, torch.arange(len(labels)), "amin")
    strata = labels[first][members]
    num_folds = min(_NUM_FOLDS_OF_FEW if len(labels) < _FEW else _NUM_FOLDS, len(names))
    folds = torch.empty_like(labels)
    start = 0
    for stratum in strata.unique():
        rows = (strata == stratum).nonzero().flatten()
        found = assign_folds(groups[rows], num_folds, seed)
        folds[rows] = (found + start) % num_folds
        start += int(found.max()) + 1
    # Of few photos a fold may have stayed empty.
    return folds.unique(return_inverse=True)[1]
