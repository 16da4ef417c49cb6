"""What is learned from the good photos outside one fold: scores, and by an inner division scales and weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.combination import FamilyCombination
from vae_ldm.latent_space.novelty_scores.families import RawScores, ScoreFamilies
from vae_ldm.latent_space.novelty_scores.folds import assign_folds
from vae_ldm.latent_space.novelty_scores.maps import PlaceMaps
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, MorePlaces, PhotoFeatures, below
from vae_ldm.latent_space.novelty_scores.placed import num_axes_for

_FEW = 150
_NUM_INNER_FOLDS = 4
_NUM_INNER_FOLDS_OF_FEW = 5
_MAX_INNER_PHOTOS = 250
"""Scales and weights are learned from so many good photos; more are no better."""


@dataclass(frozen=True, eq=False)
class HeldOutScores:
    """Raw scores of good photos and of copies, each by scores that were fitted without it."""

    good: RawScores
    made: RawScores
    kinds: Tensor
    """int64 [M]: the kinds of damage of the copies."""


@dataclass(frozen=True, eq=False)
class FoldModel:
    """All that is learned from the good photos that are not in one fold."""

    scores: ScoreFamilies
    combination: FamilyCombination
    maps: PlaceMaps

    @classmethod
    def fit(
        cls,
        good: PhotoFeatures,
        made: MadeCopies,
        groups: Tensor,
        usable: Tensor,
        kinds: Tensor,
        seed: int,
        more: MorePlaces | None = None,
    ) -> Self:
        """The model fitted on the good photos marked in `usable`, bool [N], and on copies that show no others.

        `more` are places of further photos; those of photos of the other groups are left out.

        First scales and weights, from an inner division of these photos, then the scores, from all of them. Both have
        the same number of axes and of places to remember; otherwise a score would not mean the same in both.
        """
        inner = inner_scores(good, made, groups, usable, len(kinds), seed, more)
        combination = FamilyCombination.fit(inner.good, inner.made, inner.kinds, kinds)
        maps = PlaceMaps.fit(inner.good, kinds)
        num_axes = num_axes_for(int(usable.sum()))
        scores = ScoreFamilies.fit(
            good, made, usable, num_kinds=len(kinds), num_axes=num_axes, seed=seed, more=_allowed(more, groups, usable)
        )
        return cls(scores, combination, maps)

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {
            **{f"scores.{name}": tensor for name, tensor in self.scores.tensors().items()},
            **{f"combination.{name}": tensor for name, tensor in self.combination.tensors().items()},
            **{f"maps.{name}": tensor for name, tensor in self.maps.tensors().items()},
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The model that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        scores = ScoreFamilies.from_tensors(below(tensors, "scores"))
        num_kinds = len(scores.directions.directions)
        combination = FamilyCombination.from_tensors(
            below(tensors, "combination"), num_kinds, len(scores.placed.layouts)
        )
        return cls(scores, combination, PlaceMaps.from_tensors(below(tensors, "maps"), num_kinds))


def inner_scores(
    good: PhotoFeatures,
    made: MadeCopies,
    groups: Tensor,
    usable: Tensor,
    num_kinds: int,
    seed: int,
    more: MorePlaces | None = None,
) -> HeldOutScores:
    """Scores of good photos and of copies by an inner division of the photos marked in `usable`, bool [N].

    Of many photos one inner fold is enough, and of that so many photos that scales and weights are known well.
    """
    rows = usable.nonzero().flatten()
    num_folds = _NUM_INNER_FOLDS_OF_FEW if len(rows) < _FEW else _NUM_INNER_FOLDS
    num_folds = min(num_folds, len(groups[rows].unique()))
    folds = assign_folds(groups[rows], num_folds, seed)
    judged = num_folds if len(rows) <= _MAX_INNER_PHOTOS else max(1, round(num_folds * _MAX_INNER_PHOTOS / len(rows)))
    num_axes = num_axes_for(len(rows))
    good_scores, made_scores, kinds = [], [], []
    for fold in range(judged):
        fitted_on, held = torch.zeros_like(usable), torch.zeros_like(usable)
        fitted_on[rows[folds != fold]], held[rows[folds == fold]] = True, True
        scores = ScoreFamilies.fit(
            good,
            made,
            fitted_on,
            num_kinds=num_kinds,
            num_axes=num_axes,
            seed=seed,
            more=_allowed(more, groups, fitted_on),
        )
        good_scores.append(scores(good[held.nonzero().flatten()[:_MAX_INNER_PHOTOS]]))
        copies = made[(held[made.sources[:, 0]] & usable[made.sources[:, 1]]).nonzero().flatten()]
        made_scores.append(scores(copies.features))
        kinds.append(copies.kinds)
    return HeldOutScores(RawScores.cat(good_scores), RawScores.cat(made_scores), torch.cat(kinds))


def _allowed(more: MorePlaces | None, groups: Tensor, usable: Tensor) -> MorePlaces | None:
    """Places of photos that are of no group of which a photo is not marked in `usable`."""
    return None if more is None else more.without_groups(groups[~usable])
