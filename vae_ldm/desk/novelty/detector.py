"""A detector of novelty, which judges photos; `detector_folder.py` stores it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vae_ldm.data.photo_stream import Photos, WholePhotos, records_of
from vae_ldm.data.sources import Record, photo_digest
from vae_ldm.desk.novelty.observer import PhotoObserver
from vae_ldm.errors import DataError
from vae_ldm.latent_space.false_alarms import photos_needed
from vae_ldm.latent_space.heat_map import HeatScale, overlay, own_scale
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector
from vae_ldm.latent_space.novelty_scores.families import FAMILIES
from vae_ldm.latent_space.novelty_scores.known_classes import ClassJudgement, KnownClasses
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures

CLASS_ERROR_RATE = 0.1
"""For so many photos of a known class, one like no known photo counted among them, the set misses the class."""


@dataclass(frozen=True)
class DetectorFacts:
    """What a detector was fitted with and on; all of it stands in detector.json."""

    backbone: str | None
    backbone_digest: str
    features_name: str
    only_classes: list[str]
    known_classes: list[str]
    series: str | None
    """The pattern by which photos of one series are recognised."""
    num_reference: int
    """Usual photos, those that are left out among them."""
    num_calibration: int
    """How many of them calibrate, near-duplicates and photos of one series counted once."""
    num_left_out: int
    photos_digest: str
    """SHA-256 of the files of all photos that were given, those that cannot be read among them."""
    false_alarm_rate: float


@dataclass(frozen=True)
class ClassVerdict:
    """Which of the known classes a photo may be of."""

    most_like: str
    """The class for which most speaks. It is named for every photo, also where it is not possible."""
    possible: list[str]
    """The classes that cannot be ruled out, the likeliest first; empty: it is like none of them."""
    too_few: list[str]
    """Classes of so few photos that they can never be ruled out; they are not among the possible ones."""
    p_values: dict[str, float]


@dataclass(frozen=True, eq=False)
class NoveltyVerdict:
    """What a detector says of one photo."""

    record: Record
    novel: bool | None
    """None where there are too few usual photos to say so at the false-alarm rate."""
    p_value: float | None
    """How often a usual photo scores as high, at most; never below 1 / (n + 1). None where `novel` is None."""
    score: float
    """In standard deviations over usual photos; high is strange."""
    families: dict[str, float]
    """The same of each family of scores."""
    family_p_values: dict[str, float]
    classes: ClassVerdict | None
    """None for a detector that knows no classes, and for a photo that is usual where the usual classes were named."""
    features_name: str
    heat_map: np.ndarray | None = field(repr=False)
    """The photo in grey with its strange places in yellow to red, uint8 [H, W, 3]; None where none was asked for.

    It has the photo's own proportions. Where a novel photo has no place as strange as 1, the map shows the strangest
    places of this photo.
    """
    max_heat: float | None
    """The heat of its strangest place: 0 is usual, and few usual photos are above 1; None without a heat map, and where
    `novel` is None."""
    is_reference: bool = False
    """Whether the detector was fitted on this very photo. It is then judged by the model that has not seen it."""


@dataclass(frozen=True, eq=False)
class Detector:
    """What is known of usual photos and of known classes, and the backbone that looks at new ones."""

    facts: DetectorFacts
    observer: PhotoObserver = field(repr=False)
    scores: CrossFittedDetector = field(repr=False)
    classes: KnownClasses | None = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)
    """SHA-256 of the files of the usual photos, in the order of `scores`; empty where one was no file."""

    def judge(
        self, photos: Photos | WholePhotos, *, heat_maps: bool = True, false_alarm_rate: float | None = None
    ) -> list[NoveltyVerdict]:
        """A verdict on each photo, in order; `false_alarm_rate` takes the place of that of the fit.

        Photos are paths, Pillow images, arrays, tensors or records, one or several; a folder is all of its photos;
        WholePhotos are of `observer.batches`. Raises DataError for a photo that cannot be read.
        """
        batches = [photos] if isinstance(photos, WholePhotos) else self._batches(photos)
        found: list[NoveltyVerdict] = []
        for batch in batches:
            seen = self.observer(batch.pictures)
            found += self.judge_seen(batch, seen, heat_maps=heat_maps, false_alarm_rate=false_alarm_rate)
        return found

    def can_judge(self, false_alarm_rate: float) -> bool:
        """Whether there are enough usual photos for a p-value to come down to the rate."""
        return self.facts.num_calibration >= photos_needed(false_alarm_rate)

    def heat_scale(self, false_alarm_rate: float) -> HeatScale:
        """The scale at which that share of usual photos has a place above 1. Raises ValueError for too few photos."""
        held = self.scores
        return HeatScale.fit(held.held_out_means, held.held_out_maxima, held.groups, false_alarm_rate)

    def judge_seen(
        self,
        batch: WholePhotos,
        features: PhotoFeatures,
        *,
        heat_maps: bool = True,
        false_alarm_rate: float | None = None,
    ) -> list[NoveltyVerdict]:
        """A verdict on each photo of a batch, in which `observer` has seen `features`."""
        rate = self.facts.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
        judged = self.scores(features)
        rows = torch.tensor([self._rows.get(photo_digest(record), -1) for record in batch.records])
        own = (rows >= 0).nonzero().flatten()
        if len(own):
            judged = judged.with_rows(own, self.scores.judge_held_out(features[own], rows[own]))
        p_values = judged.p_values.tolist() if self.can_judge(rate) else [None] * len(batch)
        novel = [None if p_value is None else p_value <= rate + 1e-12 for p_value in p_values]
        classes = self.classes(features) if self.classes is not None else None
        maps = self._heat_maps(batch.pictures, judged.maps, novel, rate) if heat_maps else [(None, None)] * len(batch)
        return [
            NoveltyVerdict(
                record,
                novel[index],
                p_values[index],
                judged.scores[index].item(),
                dict(zip(FAMILIES, judged.families[index].tolist(), strict=True)),
                dict(zip(FAMILIES, judged.family_p_values[index].tolist(), strict=True)),
                self._class_verdict(classes, index, novel[index]),
                self.facts.features_name,
                maps[index][0],
                maps[index][1],
                is_reference=bool(rows[index] >= 0),
            )
            for index, record in enumerate(batch.records)
        ]

    def _batches(self, photos: Photos) -> Iterator[WholePhotos]:
        return self.observer.batches(records_of(photos), on_unreadable=_refuse)

    def _heat_maps(
        self, pictures: Sequence[np.ndarray], maps: Tensor, novel: Sequence[bool | None], rate: float
    ) -> Sequence[tuple[np.ndarray, float | None]]:
        """Pictures with their heat, and the heat of their strangest places; maps are [N, P]."""
        scale = self.heat_scale(rate) if self.can_judge(rate) else None
        side = round(maps.shape[1] ** 0.5)
        grids = maps.unflatten(1, (side, side))
        if scale is None:
            return [(overlay(picture, own_scale(grid)), None) for picture, grid in zip(pictures, grids, strict=True)]
        found = []
        for picture, heat, is_novel in zip(pictures, scale(grids), novel, strict=True):
            highest = heat.max().item()
            found.append((overlay(picture, own_scale(heat) if is_novel and highest < 1 else heat), highest))
        return found

    def _class_verdict(self, known: ClassJudgement | None, index: int, novel: bool | None) -> ClassVerdict | None:
        if known is None or (self.facts.only_classes and novel is False):
            return None  # a usual photo is of none of the other classes, whichever it is most like
        names, p_values = self.facts.known_classes, known.p_values[index]
        possible, decided = known.sets(CLASS_ERROR_RATE)[index], known.can_be_left_out(CLASS_ERROR_RATE)
        order = p_values.argsort(descending=True, stable=True).tolist()
        return ClassVerdict(
            names[int(known.most_like[index])],
            [names[number] for number in order if possible[number] and decided[number]],
            [name for name, is_decided in zip(names, decided.tolist(), strict=True) if not is_decided],
            {names[number]: p_values[number].item() for number in order},
        )

    @cached_property
    def _rows(self) -> Mapping[str | None, int]:
        return {digest: row for row, digest in enumerate(self.digests) if digest}


def _refuse(record: Record, why: str) -> None:
    raise DataError(f"{record.place}: cannot be read ({why})")
