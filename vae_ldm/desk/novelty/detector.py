"""A detector of novelty, which judges photos; `detector_folder.py` stores it."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector, NoveltyJudgement
from vae_ldm.latent_space.novelty_scores.families import FAMILIES
from vae_ldm.latent_space.novelty_scores.known_classes import KnownClasses

CLASS_LEVEL = 0.9
"""The set of known classes holds a photo's own class so often, for photos like those of the class."""


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
    false_alarm_rate: float


@dataclass(frozen=True)
class ClassVerdict:
    """Which of the known classes a photo may be of."""

    most_like: str
    possible: list[str]
    """The classes that cannot be ruled out, the likeliest first; empty: it is like none of them."""
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
    """None for a detector that knows no classes."""
    features_name: str
    heat_map: np.ndarray | None
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
    observer: PhotoObserver
    scores: CrossFittedDetector
    classes: KnownClasses | None
    digests: tuple[str, ...]
    """SHA-256 of the files of the usual photos, in the order of `scores`; empty where one was no file."""

    def judge(
        self, photos: Photos | WholePhotos, *, heat_maps: bool = True, false_alarm_rate: float | None = None
    ) -> list[NoveltyVerdict]:
        """A verdict on each photo, in order; `false_alarm_rate` takes the place of that of the fit.

        Photos are paths, Pillow images, arrays, tensors or records, one or several; a folder is all of its photos;
        WholePhotos are of `observer.batches`. Raises DataError for a photo that cannot be read.
        """
        batches = (
            [photos]
            if isinstance(photos, WholePhotos)
            else self.observer.batches(records_of(photos), on_unreadable=_refuse)
        )
        rate = self.facts.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
        return [verdict for batch in batches for verdict in self._judge_batch(batch, heat_maps, rate)]

    def can_judge(self, false_alarm_rate: float) -> bool:
        """Whether there are enough usual photos for a p-value to come down to the rate."""
        return self.facts.num_calibration >= photos_needed(false_alarm_rate)

    def heat_scale(self, false_alarm_rate: float) -> HeatScale:
        """The scale at which that share of usual photos has a place above 1. Raises ValueError for too few photos."""
        held = self.scores
        return HeatScale.fit(held.held_out_means, held.held_out_maxima, held.groups, false_alarm_rate)

    def _judge_batch(self, batch: WholePhotos, heat_maps: bool, rate: float) -> list[NoveltyVerdict]:
        features = self.observer(batch.pictures)
        judged = self.scores(features)
        own = {
            index: self._rows[digest]
            for index, record in enumerate(batch.records)
            if (digest := photo_digest(record)) in self._rows
        }
        if own:
            judged = _with_rows(
                judged,
                list(own),
                self.scores.judge_held_out(features[torch.tensor(list(own))], torch.tensor(list(own.values()))),
            )
        known = self.classes(features) if self.classes is not None else None
        scale = self.heat_scale(rate) if heat_maps and self.can_judge(rate) else None
        return [
            self._verdict(
                batch, index, judged, None if known is None else known[index], rate, heat_maps, scale, index in own
            )
            for index in range(len(batch))
        ]

    def _verdict(
        self,
        batch: WholePhotos,
        index: int,
        judged: NoveltyJudgement,
        class_p_values: Tensor | None,
        rate: float,
        heat_maps: bool,
        scale: HeatScale | None,
        is_reference: bool,
    ) -> NoveltyVerdict:
        p_value = judged.p_values[index].item() if self.can_judge(rate) else None
        novel = None if p_value is None else p_value <= rate + 1e-12
        heat_map, max_heat = (
            _heat_map(batch.pictures[index], judged.maps[index], scale, bool(novel)) if heat_maps else (None, None)
        )
        return NoveltyVerdict(
            batch.records[index],
            novel,
            p_value,
            judged.scores[index].item(),
            dict(zip(FAMILIES, judged.families[index].tolist(), strict=True)),
            dict(zip(FAMILIES, judged.family_p_values[index].tolist(), strict=True)),
            None if class_p_values is None else self._class_verdict(class_p_values),
            self.facts.features_name,
            heat_map,
            max_heat,
            is_reference,
        )

    def _class_verdict(self, p_values: Tensor) -> ClassVerdict:
        names = self.facts.known_classes
        order = p_values.argsort(descending=True, stable=True).tolist()
        possible = [names[index] for index in order if p_values[index] > 1 - CLASS_LEVEL + 1e-12]
        return ClassVerdict(names[order[0]], possible, {names[index]: p_values[index].item() for index in order})

    @cached_property
    def _rows(self) -> Mapping[str | None, int]:
        return {digest: row for row, digest in enumerate(self.digests) if digest}


def _with_rows(judged: NoveltyJudgement, indices: list[int], others: NoveltyJudgement) -> NoveltyJudgement:
    """The judgement with some photos' rows taken from `others`, in their order."""
    rows = torch.tensor(indices)
    return NoveltyJudgement(
        *(getattr(judged, name).index_copy(0, rows, getattr(others, name)) for name in NoveltyJudgement.__annotations__)
    )


def _heat_map(
    picture: np.ndarray, places: Tensor, scale: HeatScale | None, novel: bool
) -> tuple[np.ndarray, float | None]:
    side = round(len(places) ** 0.5)
    grid = places.unflatten(0, (side, side))
    if scale is None:
        return overlay(picture, own_scale(grid)), None
    heat = scale(grid)
    highest = heat.max().item()
    return overlay(picture, own_scale(heat) if novel and highest < 1 else heat), highest


def _refuse(record: Record, why: str) -> None:
    raise DataError(f"{record.place}: cannot be read ({why})")
