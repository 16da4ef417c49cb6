"""Six families of scores, each good at another sort of strangeness, on one scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.activity import ActivityScores
from vae_ldm.latent_space.novelty_scores.directions import DirectionScores
from vae_ldm.latent_space.novelty_scores.moments import NUM_MOMENT_SCORES, MomentScores
from vae_ldm.latent_space.novelty_scores.patches import NUM_PATCH_SCORES, PatchScores, summary
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, MorePlaces, PhotoFeatures, below
from vae_ldm.latent_space.novelty_scores.place_directions import PlaceDirections
from vae_ldm.latent_space.novelty_scores.placed import PlacedScores
from vae_ldm.latent_space.stored_tensors import check_tensors

MAIN_FAMILIES = ("moments", "placed", "patches", "directions")
_WITH_SCORES = (*MAIN_FAMILIES, "activity")
FAMILIES = (*_WITH_SCORES, "closeness")
"""The last two are for photos that are too smooth. Closeness is how unusually near the nearest good photos and places
are; it has no scores of its own."""

_PLACE_DIRECTIONS = "place_directions"
_LEAST_SCORE = 1e-9
_LOWEST = -8.0
"""A score of nearly nothing (no projection on any direction) has no logarithm worth the name."""


@dataclass(frozen=True, eq=False)
class RawScores:
    """What the families say of N photos, each score in units of its own. High is strange."""

    moments: Tensor
    """[N, 2]"""
    placed: Tensor
    """[N, number of layouts]"""
    patches: Tensor
    """[N, 2]"""
    directions: Tensor
    """[N, kinds of made damage]"""
    activity: Tensor
    """[N, 1]"""
    maps: Tensor
    """What `patches` are the means of, for each place: [N, P]."""
    place_directions: Tensor
    """[N, P, kinds of made damage]; for maps only: as a verdict it is worse than the others."""

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, rows: Tensor) -> "RawScores":
        return RawScores(
            self.moments[rows],
            self.placed[rows],
            self.patches[rows],
            self.directions[rows],
            self.activity[rows],
            self.maps[rows],
            self.place_directions[rows],
        )

    @classmethod
    def cat(cls, some: "Sequence[RawScores]") -> "RawScores":
        """All photos of several, in order."""
        return cls(
            torch.cat([each.moments for each in some]),
            torch.cat([each.placed for each in some]),
            torch.cat([each.patches for each in some]),
            torch.cat([each.directions for each in some]),
            torch.cat([each.activity for each in some]),
            torch.cat([each.maps for each in some]),
            torch.cat([each.place_directions for each in some]),
        )

    def logarithms(self, kinds: Tensor) -> tuple[Tensor, ...]:
        """Logarithms, float64, [N, number of scores] of each family that has scores.

        Directions count as one score, the mean over the kinds marked in `kinds`, bool [kinds].
        """
        towards = self.directions[:, kinds].double().mean(dim=1, keepdim=True)
        families = (self.moments, self.placed, self.patches, towards, self.activity)
        return tuple(each.double().clamp(min=_LEAST_SCORE).log() for each in families)


@dataclass(frozen=True, eq=False)
class ScoreFamilies:
    """All scores, fitted on good photos and on damaged copies of the same photos."""

    moments: MomentScores
    placed: PlacedScores
    patches: PatchScores
    directions: DirectionScores
    activity: ActivityScores
    place_directions: PlaceDirections

    @classmethod
    def fit(
        cls,
        good: PhotoFeatures,
        made: MadeCopies,
        usable: Tensor,
        *,
        num_kinds: int,
        num_axes: int,
        seed: int,
        more: MorePlaces | None = None,
    ) -> Self:
        """The scores fitted on the good photos marked in `usable`, bool [N], and on copies that show no others.

        `num_kinds` is how many kinds of damage there are, `num_axes` how many axes a layout gets, and `more` places of
        further photos.
        """
        rows = usable.nonzero().flatten()
        fitted_on, copies = good[rows], made.rows_of(usable)
        kinds = made.kinds[copies]
        if made.steps is None:
            made = made.with_steps(good)
        assert made.steps is not None
        generator = torch.Generator().manual_seed(seed)
        moments = MomentScores.fit(fitted_on)
        before = moments.whiten(stage[made.sources[copies, 0]] for stage in good.moments)
        steps = moments.whiten(stage[copies] for stage in made.features.moments) - before
        return cls(
            moments,
            PlacedScores.fit(fitted_on, num_axes, generator),
            PatchScores.fit(fitted_on, generator, more),
            DirectionScores.fit(steps, kinds, num_kinds),
            ActivityScores.fit(fitted_on.moments),
            PlaceDirections.fit(fitted_on, made.steps[copies], kinds, num_kinds, generator),
        )

    def __call__(self, seen: PhotoFeatures) -> RawScores:
        """What the families say of photos."""
        maps, whitened = self.patches.maps(seen), self.moments.whiten(seen.moments)
        return RawScores(
            self.moments(seen, whitened),
            self.placed(seen),
            summary(maps),
            self.directions(whitened),
            self.activity(seen.moments),
            maps,
            self.place_directions(seen),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        tensors = (
            self.moments.tensors(),
            self.placed.tensors(),
            self.patches.tensors(),
            self.directions.tensors(),
            self.activity.tensors(),
            self.place_directions.tensors(),
        )
        return {
            f"{family}.{name}": tensor
            for family, scores in zip((*_WITH_SCORES, _PLACE_DIRECTIONS), tensors, strict=True)
            for name, tensor in scores.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The scores that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        moments, placed, patches, directions, activity, place_directions = (
            below(tensors, family) for family in (*_WITH_SCORES, _PLACE_DIRECTIONS)
        )
        return cls(
            MomentScores.from_tensors(moments),
            PlacedScores.from_tensors(placed),
            PatchScores.from_tensors(patches),
            DirectionScores.from_tensors(directions),
            ActivityScores.from_tensors(activity),
            PlaceDirections.from_tensors(place_directions),
        )


@dataclass(frozen=True, eq=False)
class FamilyScales:
    """One scale for all families: the mean of the standardised logarithms of a family's scores.

    Closeness is the mean of `placed` and `patches` with the sign turned.
    """

    means: tuple[Tensor, ...]
    """[number of scores] of each family that has scores, float64"""
    deviations: tuple[Tensor, ...]
    """[number of scores] of each family that has scores, float64"""

    @classmethod
    def fit(cls, logarithms: Sequence[Tensor]) -> Self:
        """The scales fitted on good photos [N, number of scores] of each family that has scores;
        nothing else was fitted on these photos."""
        return cls(
            tuple(family.mean(dim=0) for family in logarithms),
            tuple(family.std(dim=0, correction=0).clamp(min=1e-9) for family in logarithms),
        )

    def __call__(self, logarithms: Sequence[Tensor]) -> Tensor:
        """[N, families]: about 0 for good photos, in about standard deviations."""
        families = [
            ((family - mean) / deviation).clamp(min=_LOWEST).mean(dim=1)
            for family, mean, deviation in zip(logarithms, self.means, self.deviations, strict=True)
        ]
        closeness = -(families[_WITH_SCORES.index("placed")] + families[_WITH_SCORES.index("patches")]) / 2
        return torch.stack([*families, closeness], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        pairs = zip(_WITH_SCORES, self.means, self.deviations, strict=True)
        return {
            name: tensor
            for family, mean, deviation in pairs
            for name, tensor in ((f"mean.{family}", mean), (f"deviation.{family}", deviation))
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], num_layouts: int) -> Self:
        """The scales that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        lengths = dict(zip(_WITH_SCORES, (NUM_MOMENT_SCORES, num_layouts, NUM_PATCH_SCORES, 1, 1), strict=True))
        for name in ("mean", "deviation"):
            shapes = {f"{name}.{family}": (length,) for family, length in lengths.items()}
            check_tensors(tensors, shapes, dtype=torch.float64)
        return cls(
            tuple(tensors[f"mean.{family}"] for family in _WITH_SCORES),
            tuple(tensors[f"deviation.{family}"] for family in _WITH_SCORES),
        )
