"""A detector of novelty: fits that leave out one fold of the good photos each, and p-values by all of them (CV+).

There is no last fit on all photos. The fits that calibrate are the ones that judge, so what a calibration photo was
compared with is of the same size and sort as what a new photo is compared with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.conformal import CrossCalibration
from vae_ldm.latent_space.novelty_scores.families import FAMILIES
from vae_ldm.latent_space.novelty_scores.fold_model import FoldModel
from vae_ldm.latent_space.novelty_scores.folds import assign_folds
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, MorePlaces, PhotoFeatures, below
from vae_ldm.latent_space.stored_tensors import check_tensors
from vae_ldm.text import counted

MIN_GROUPS = 8
"""With fewer there is nothing to hold out and still something to compare with."""

_NUM_FOLDS = 10
"""Fits on nine tenths of the photos differ little, and p-values are then less cautious: on doc_labels 3.7 % false
alarms at 5 % asked, and 3.1 % with five folds (the same five divisions)."""
_BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class NoveltyJudgement:
    """What a detector says of N photos."""

    scores: Tensor
    """[N], float64: the mean over the fits, in standard deviations over good photos."""
    families: Tensor
    """[N, families], float64: the same of each family."""
    family_p_values: Tensor
    """[N, families], float64: what the p-value would be if one family alone decided."""
    p_values: Tensor
    """[N], float64, in [1 / (groups + 1), 1]"""
    maps: Tensor
    """[N, P], float64: how strange each place is, about 0 where usual, in about standard deviations."""
    place_p_values: Tensor
    """[N, P], float64: shares of good photos whose strangest place is at least as strange."""

    def with_rows(self, rows: Tensor, others: Self) -> "NoveltyJudgement":
        """The same with some photos' rows, int64 [n], taken from a judgement of n photos."""
        names = [field.name for field in fields(self)]
        return NoveltyJudgement(*(getattr(self, name).index_copy(0, rows, getattr(others, name)) for name in names))


@dataclass(frozen=True, eq=False)
class CrossFittedDetector:
    """One model a fold, and what each says of the photos of its fold."""

    models: tuple[FoldModel, ...]
    folds: Tensor
    """int64 [N] of the good photos"""
    groups: Tensor
    """int64 [N]: photos of one group are near-duplicates, or of one series."""
    held_out: Tensor
    """Scores of the good photos: [N], float64, as all that follow by the model of the photo's own fold."""
    held_out_families: Tensor
    """[N, families], float64"""
    held_out_means: Tensor
    """Mean over the places of a photo's map: [N], float64."""
    held_out_maxima: Tensor
    """The strangest place of a photo's map: [N], float64."""

    @classmethod
    def fit(
        cls,
        good: PhotoFeatures,
        made: MadeCopies,
        groups: Tensor,
        *,
        num_kinds: int,
        left_out: Tensor | None = None,
        more: MorePlaces | None = None,
        seed: int = 0,
        report: Callable[[int, int], None] | None = None,
    ) -> Self:
        """The detector fitted on good photos [N] and on damaged copies of some of them.

        Photos of one of `groups`, int64 [N], are left out together. Nothing is fitted on photos marked in `left_out`,
        bool [N], nor on copies that show them; they are in a fold all the same, and their held-out scores stay among
        those that calibrate, so that the promise holds. The same photos, groups and seed give the same folds, whatever
        is left out. `more` are places of further photos, for the memory of places alone. One thing is learned from all
        photos, before: how strong made damage is. It treats all photos alike and touches the copies only. `report`
        hears how many folds of how many are done.

        Raises ValueError where there are too few groups.
        """
        usable = torch.ones(len(good), dtype=torch.bool) if left_out is None else ~left_out
        num_groups = len(groups[usable].unique())
        if num_groups < MIN_GROUPS:
            raise ValueError(f"novelty takes at least {counted(MIN_GROUPS, 'different photo')}, not {num_groups}")
        folds = outer_folds(groups, seed)
        kinds = torch.ones(num_kinds, dtype=torch.bool)
        made = made.with_steps(good)
        models = []
        held_out = torch.empty(len(good), dtype=torch.float64)
        families = torch.empty(len(good), len(FAMILIES), dtype=torch.float64)
        means, maxima = torch.empty_like(held_out), torch.empty_like(held_out)
        num_folds = int(folds.max()) + 1
        for fold in range(num_folds):
            model = FoldModel.fit(good, made, groups, usable & (folds != fold), kinds, seed, more)
            models.append(model)
            for rows in (folds == fold).nonzero().flatten().split(_BATCH_SIZE):
                raw = model.scores(good[rows])
                held_out[rows], families[rows] = model.combination(raw), model.combination.families(raw)
                maps = model.maps(raw)
                means[rows], maxima[rows] = maps.mean(dim=1), maps.amax(dim=1)
            if report is not None:
                report(fold + 1, num_folds)
        return cls(tuple(models), folds, groups, held_out, families, means, maxima)

    @property
    def num_groups(self) -> int:
        """How many photos calibrate, near-duplicates counted once: what `photos_needed` is compared with."""
        return len(self.groups.unique())

    def __call__(self, seen: PhotoFeatures) -> NoveltyJudgement:
        """What the detector says of new photos."""
        parts = [self._judge(seen[start : start + _BATCH_SIZE]) for start in range(0, len(seen), _BATCH_SIZE)]
        return NoveltyJudgement(
            torch.cat([each.scores for each in parts]),
            torch.cat([each.families for each in parts]),
            torch.cat([each.family_p_values for each in parts]),
            torch.cat([each.p_values for each in parts]),
            torch.cat([each.maps for each in parts]),
            torch.cat([each.place_p_values for each in parts]),
        )

    def _judge(self, seen: PhotoFeatures) -> NoveltyJudgement:
        raw = [model.scores(seen) for model in self.models]
        pairs = list(zip(self.models, raw, strict=True))
        scores = torch.stack([model.combination(each) for model, each in pairs])
        families = torch.stack([model.combination.families(each) for model, each in pairs])
        maps = torch.stack([model.maps(each) for model, each in pairs])
        of_scores, of_maxima, *of_families = self._calibrations
        family_p_values = [calibration(families[..., index]) for index, calibration in enumerate(of_families)]
        return NoveltyJudgement(
            scores.mean(dim=0),
            families.mean(dim=0),
            torch.stack(family_p_values, dim=1),
            of_scores(scores),
            maps.mean(dim=0),
            of_maxima(maps),
        )

    @cached_property
    def _calibrations(self) -> list[CrossCalibration]:
        """Of the scores, of the strangest places, and of each family."""
        held_out = [self.held_out, self.held_out_maxima, *self.held_out_families.T]
        return [CrossCalibration.fit(each, self.folds, self.groups, len(self.models)) for each in held_out]

    def judge_held_out(self, seen: PhotoFeatures, rows: Tensor) -> NoveltyJudgement:
        """What the detector says of good photos themselves, each by the model that has not seen it.

        `rows`, int64 [N], say which of the good photos these are; a photo's group does not count for its p-values.
        """
        maps = torch.stack(
            [
                model.maps(model.scores(seen[index : index + 1]))[0]
                for index, model in enumerate(self.models[fold] for fold in self.folds[rows].tolist())
            ]
        )
        families = self.held_out_families[rows]
        family_p_values = [
            self._among_the_others(self.held_out_families[:, index], families[:, index], rows)
            for index in range(families.shape[1])
        ]
        return NoveltyJudgement(
            self.held_out[rows],
            families,
            torch.stack(family_p_values, dim=1),
            self._among_the_others(self.held_out, self.held_out[rows], rows),
            maps,
            self._among_the_others(self.held_out_maxima, maps, rows),
        )

    def held_out_p_values(self) -> Tensor:
        """P-values [N] of the good photos themselves, float64: how strange each is beside the others.

        The groups of lowest p-value are the ones to look at first; a group's own scores do not count.
        """
        return self._among_the_others(self.held_out, self.held_out, torch.arange(len(self.held_out)))

    def _among_the_others(self, held_out: Tensor, scores: Tensor, rows: Tensor) -> Tensor:
        """P-values of scores [B] or [B, P] of the good photos in `rows`, int64 [B], beside the held-out [N] of all
        other groups."""
        _, members, counts = self.groups.unique(return_inverse=True, return_counts=True)
        ordered, order = held_out.sort()
        weights, groups = (1 / counts[members].double())[order], self.groups[order]
        places = torch.searchsorted(ordered, scores.contiguous())
        found = []
        for place, group in zip(places, self.groups[rows], strict=True):
            above = weights.masked_fill(groups == group, 0).flip(0).cumsum(dim=0).flip(0)
            found.append(torch.cat([above, above.new_zeros(1)])[place])
        return (1 + torch.stack(found)) / len(counts)

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        models = {
            f"model.{fold}.{name}": tensor
            for fold, model in enumerate(self.models)
            for name, tensor in model.tensors().items()
        }
        return {
            **models,
            "folds": self.folds,
            "groups": self.groups,
            "held_out": self.held_out,
            "held_out_families": self.held_out_families,
            "held_out_means": self.held_out_means,
            "held_out_maxima": self.held_out_maxima,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The detector that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        check_tensors(tensors, {"folds": ("N",), "groups": ("N",)}, dtype=torch.int64)
        folds, per_photo = tensors["folds"], (len(tensors["folds"]),)
        check_tensors(
            tensors,
            {
                "held_out": per_photo,
                "held_out_families": (*per_photo, len(FAMILIES)),
                "held_out_means": per_photo,
                "held_out_maxima": per_photo,
            },
            dtype=torch.float64,
        )
        num_folds = int(folds.max()) + 1
        if not torch.equal(folds.unique(), torch.arange(num_folds)):
            raise ValueError("the folds are not numbered from 0 without a gap")
        models = tuple(FoldModel.from_tensors(below(tensors, f"model.{fold}")) for fold in range(num_folds))
        names = "groups", "held_out", "held_out_families", "held_out_means", "held_out_maxima"
        return cls(models, folds, *(tensors[name] for name in names))


def outer_folds(groups: Tensor, seed: int = 0) -> Tensor:
    """The folds [N] of good photos of `groups` [N]: ten, or one a group where there are fewer.

    What pieces of another photo go into made damage may be drawn within these folds, so that no copy is lost.
    """
    return assign_folds(groups, min(_NUM_FOLDS, len(groups.unique())), seed)
