"""A detector of novelty: what `novelty fit` leaves on disk, opened again to judge photos.

detector.json is of format 4. Up to format 3 a detector looked at photos above 512 px whole, while the index looked at
them in tiles; both are read as they were meant. Version 0.1.0 wrote format 2, which holds no digest of the facts
themselves and scales the residual's heat by its maxima at full size, so its heat maps stay as they were.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vae_ldm.choices import FeatureKind, Resize, ScoreName
from vae_ldm.data.photo_stream import PhotoBatch, Photos, records_of
from vae_ldm.data.sources import Record
from vae_ldm.desk.encoder import PhotoEncoder, stored_model
from vae_ldm.desk.novelty.observer import PhotoObserver, Seen
from vae_ldm.errors import DataError, WeightsError, first_line
from vae_ldm.files import finish_swap, whole_folder
from vae_ldm.latent_space.conformal import p_values
from vae_ldm.latent_space.heat_map import HeatScale, at_size, overlay, own_scale
from vae_ldm.latent_space.novelty import SCORE_NAMES, Combination, Observations, Scorers
from vae_ldm.latent_space.stored_tensors import check_tensors
from vae_ldm.paths import check_detector_place
from vae_ldm.stored_json import StoredKind

FACTS_FILE, TENSORS_FILE = "detector.json", "detector.safetensors"
_KIND = StoredKind(newest=4, digest_from=3, cure="fit the detector again", error=WeightsError)


@dataclass(frozen=True)
class DetectorFacts:
    """What a detector was fitted with and on; all of it stands in detector.json."""

    model: str
    model_digest: str
    image_size: tuple[int, int]
    channels: int
    resize: Resize
    features: FeatureKind
    features_name: str
    backbone: str | None
    backbone_digest: str | None
    only_classes: list[str]
    num_reference: int
    num_calibration: int
    score: ScoreName
    false_alarm_rate: float
    threshold: float
    """The threshold of `score`; a photo above it is novel."""
    in_tiles: bool = False
    """Whether its photos are so large that the autoencoder looked at them piece by piece."""


@dataclass(frozen=True)
class _Fitted:
    """What else stands in detector.json."""

    num_pixels: int
    patch_heat: HeatScale
    residual_heat: HeatScale


@dataclass(frozen=True, eq=False)
class NoveltyVerdict:
    """What a detector says of one photo."""

    record: Record
    novel: bool
    p_value: float
    """How often a photo like the calibration photos scores as high, at most; never below 1 / (n + 1)."""
    scores: dict[ScoreName, float]
    features_name: str
    heat_map: np.ndarray | None
    """The photo with its strange places in yellow to red, uint8 [H, W, 3]; None where none was asked for.

    Where a novel photo has no place as strange as 1, the map shows the strangest places of this photo.
    """
    max_heat: float | None
    """The heat of its strangest place: 0 is usual, and few calibration photos are above 1; None without a heat map."""
    is_reference: bool = False
    """Whether the detector was fitted on it; its scores are too low then to say anything."""


@dataclass(frozen=True, eq=False)
class Detector:
    """Scorers and calibration scores for the photos of one model."""

    facts: DetectorFacts
    observer: PhotoObserver
    scorers: Scorers
    combination: Combination
    calibration: Tensor
    """Scores of the calibration photos in the order of SCORE_NAMES, float64 [n, 7]."""
    patch_heat: HeatScale
    residual_heat: HeatScale

    def judge(self, photos: Photos | PhotoBatch, *, heat_maps: bool = True) -> list[NoveltyVerdict]:
        """A verdict on each photo, in order; photos of a batch are of `observer.encoder.batches`.

        Others are paths, Pillow images, arrays, tensors or records, one or several; a folder is all of its photos.
        Raises DataError for a photo that cannot be read.
        """
        if isinstance(photos, PhotoBatch):
            return self._judge_batch(photos, heat_maps=heat_maps)
        batches = self.observer.encoder.batches(records_of(photos), on_unreadable=_refuse)
        return [verdict for batch in batches for verdict in self._judge_batch(batch, heat_maps=heat_maps)]

    def _judge_batch(self, batch: PhotoBatch, *, heat_maps: bool) -> list[NoveltyVerdict]:
        return self.judge_seen(batch, self.observer(batch), heat_maps=heat_maps)

    def judge_seen(self, batch: PhotoBatch, seen: Seen, *, heat_maps: bool = True) -> list[NoveltyVerdict]:
        """A verdict on each photo of a batch that `observer` has looked at."""
        scores = all_scores(self.scorers, self.combination, seen.observations)
        column = SCORE_NAMES.index(self.facts.score)
        chosen = scores[:, column]
        values = p_values(chosen, self.calibration[:, column])
        novel = chosen > self.facts.threshold
        fitted_on = self.scorers.are_references(seen.observations)
        maps = self._heat_maps(batch, seen, novel) if heat_maps else [(None, None)] * len(batch)
        return [
            NoveltyVerdict(
                record,
                bool(is_novel),
                p_value.item(),
                dict(zip(SCORE_NAMES, row.tolist(), strict=True)),
                self.facts.features_name,
                heat_map,
                max_heat,
                bool(is_reference),
            )
            for record, is_novel, p_value, row, (heat_map, max_heat), is_reference in zip(
                batch.records, novel, values, scores, maps, fitted_on, strict=True
            )
        ]

    def _heat_maps(self, batch: PhotoBatch, seen: Seen, novel: Tensor) -> list[tuple[np.ndarray, float]]:
        patches, residual = shown_maps(self.scorers, seen)
        heats = torch.maximum(self.patch_heat(patches), self.residual_heat(residual))
        maps = []
        for picture, heat, is_novel in zip(batch.images[-1], heats, novel, strict=True):
            highest = heat.max().item()
            maps.append((overlay(picture, own_scale(heat) if is_novel and highest < 1 else heat), highest))
        return maps

    def save(self, folder: Path) -> None:
        """Write the detector to `folder` as a whole or not at all; an older one there is replaced.

        Raises DataError where the folder exists and holds anything else.
        """
        check_detector_place(folder)
        tensors = {
            **self.scorers.tensors(),
            "combination.center": self.combination.center,
            "combination.deviation": self.combination.deviation,
            "calibration": self.calibration,
        }
        # Through bytes and not by safetensors' own writer, whose error for a full disk is no OSError.
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        facts = {
            **asdict(self.facts),
            "num_pixels": self.scorers.num_pixels,
            "patch_heat": asdict(self.patch_heat),
            "residual_heat": asdict(self.residual_heat),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        with whole_folder(folder) as part:
            (part / TENSORS_FILE).write_bytes(content)
            _KIND.write(part / FACTS_FILE, facts)

    @classmethod
    def open(cls, folder: Path | str, *, model: str | None = None, device: torch.device | None = None) -> Self:
        """The detector in `folder`, with the model it was fitted with; `model` says where that lies now.

        Raises WeightsError where there is no detector, it is damaged, or the model is another one.
        """
        folder = Path(folder).expanduser()
        stored, tensors = _read(folder)
        file = folder / FACTS_FILE
        facts, fitted = _KIND.typed(file, DetectorFacts, stored), _KIND.typed(file, _Fitted, stored)
        try:
            scorers = Scorers.from_tensors(facts.features, tensors, num_pixels=fitted.num_pixels)
            combination = Combination.from_tensors(tensors)
            check_tensors(tensors, {"calibration": ("n", len(SCORE_NAMES))}, dtype=torch.float64)
        except KeyError as error:
            raise _KIND.damaged(folder / TENSORS_FILE, f"it has no {error.args[0]}") from error
        except ValueError as error:
            raise _KIND.damaged(folder / TENSORS_FILE, first_line(error)) from error
        observer = _observer(folder, facts, model, device)
        calibration = tensors["calibration"]
        return cls(facts, observer, scorers, combination, calibration, fitted.patch_heat, fitted.residual_heat)


def open_detector(folder: Path | str, *, model: str | None = None, device: torch.device | None = None) -> Detector:
    """The detector that `novelty fit` has written to `folder`; arguments and errors as of `Detector.open`."""
    return Detector.open(folder, model=model, device=device)


def all_scores(scorers: Scorers, combination: Combination, observations: Observations) -> Tensor:
    """Scores [N, 7] in the order of SCORE_NAMES, float64."""
    single = scorers(observations)
    return torch.cat([combination(single)[:, None], single], dim=1)


def shown_maps(scorers: Scorers, seen: Seen) -> tuple[Tensor, Tensor]:
    """The two maps that heat is shown by, [B, h, w] each, at the size at which it is shown: that of the patches.

    How strange each place is, in standard deviations of the patches; and the reconstruction's error there.
    """
    patches = scorers.memory(seen.observations.patches).unflatten(1, seen.patch_grid)
    return patches, at_size(seen.residual, seen.patch_grid)


def stored_facts(folder: Path) -> DetectorFacts | None:
    """The facts of the detector in a folder; None where there is none that this version reads."""
    try:
        stored, _ = _read(folder)
        return _KIND.typed(folder, DetectorFacts, stored)
    except WeightsError:
        return None


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    finish_swap(folder)
    file = folder / FACTS_FILE
    try:
        stored = _KIND.read(file)
        content = (folder / TENSORS_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = Path(str(error.filename)).name
        raise WeightsError(
            f"{folder}: is no detector (it has no {missing}); give a folder that vae-ldm novelty fit has written"
        ) from error
    if stored["format"] < 2:
        raise WeightsError(f"{file}: is of format {stored['format']}, which this version does not read; {_KIND.cure}")
    if hashlib.sha256(content).hexdigest() != stored.get("sha256"):
        raise WeightsError(f"{folder / TENSORS_FILE}: is damaged (its digest is another); {_KIND.cure}")
    try:
        return stored, load(content)
    except SafetensorError as error:
        raise _KIND.damaged(folder / TENSORS_FILE, first_line(error)) from error


def _observer(folder: Path, facts: DetectorFacts, model: str | None, device: torch.device | None) -> PhotoObserver:
    encoder = PhotoEncoder(
        model or stored_model(facts.model, folder),
        kind=facts.features,
        backbone=facts.backbone,
        backbone_downloads=False,
        device=device,
    )
    if encoder.digest != facts.model_digest:
        raise WeightsError(
            f"{encoder.source}: is not the model that {folder} was fitted with ({facts.model}); name that one with "
            "--model, or fit the detector again"
        )
    if encoder.backbone_digest != facts.backbone_digest:
        raise WeightsError(
            f"{folder}: was fitted with other weights of {facts.features_name} than are found now; fit it again"
        )
    if (encoder.image_size, encoder.channels, encoder.resize) != (facts.image_size, facts.channels, facts.resize):
        height, width = facts.image_size
        raise WeightsError(
            f"{encoder.source}: its recipe prepares photos in another way than when {folder} was fitted "
            f"({height}x{width}, {facts.resize}); fit the detector again"
        )
    return PhotoObserver(encoder, whole=encoder.works_in_tiles and not facts.in_tiles)


def _refuse(record: Record, why: str) -> None:
    raise DataError(f"{record.place}: cannot be read ({why})")
