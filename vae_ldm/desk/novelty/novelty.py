"""`vae-ldm novelty`: fit a detector on photos of the usual kind, and say of others whether they are unusual."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_ldm.choices import FeatureKind, ScoreName
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.photo_stream import PhotoBatch
from vae_ldm.data.sources import Record
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.desk.file_names import lengthened
from vae_ldm.desk.novelty.detector import (
    Detector,
    DetectorFacts,
    NoveltyVerdict,
    all_scores,
    shown_maps,
    stored_facts,
)
from vae_ldm.desk.novelty.observer import PhotoObserver, some_patches
from vae_ldm.desk.novelty.reference_photos import MIN_REFERENCE_PHOTOS, check_enough, reference_and_calibration
from vae_ldm.errors import DataError
from vae_ldm.files import write_picture, write_whole
from vae_ldm.latent_space.conformal import threshold
from vae_ldm.latent_space.false_alarms import photos_needed, true_rates
from vae_ldm.latent_space.heat_map import HeatScale, fit_scales
from vae_ldm.latent_space.novelty import SCORE_NAMES, Combination, Observations, Scorers, held_out_scores
from vae_ldm.paths import TABLE_SUFFIXES, check_detector_place, check_new_folder, check_output_file
from vae_ldm.text import counted

PATCH_BUDGET = 20_000
"""Patches of reference photos to choose the memory from; each photo gives its share of them."""
_CERTAIN_ALARMS = 15
"""False alarms among the calibration photos that hold a rate to about half of it."""


def fit(
    photos: Path,
    *,
    model: str,
    out: Path,
    features: FeatureKind = "both",
    backbone: str | None = None,
    score: ScoreName = "combination",
    false_alarm_rate: float = 0.05,
    calibration: Path | float = 1 / 3,
    only_classes: Sequence[str] = (),
    told: set[str] | None = None,
) -> DetectorFacts:
    """Fit a detector on photos (of `only_classes`, where any are named), calibrate it and write it to `out`.

    `calibration` is the share of the photos that is held out for it, chosen by a hash of their names, or a folder of
    others; `told` is that of DeskCommand. Each of several processes examines its share, and the first one writes.
    Raises DataError where photos are too few for the false-alarm rate, WeightsError for a model that cannot be opened,
    and at the end ManyUnreadableError where more than one in a hundred of the photos cannot be read.
    """
    command = DeskCommand(launched=True, told=told)
    check_detector_place(out)
    reference, held_out = reference_and_calibration(photos, calibration, only_classes)
    check_enough(reference, held_out, false_alarm_rate, calibration)
    encoder = PhotoEncoder(model, kind=features, backbone=backbone, device=command.processes.device)
    command.tell_unseen(reference, encoder.image_size, encoder.resize)
    command.tell_foreign(model, encoder.autoencoder, reference)
    observer = PhotoObserver(encoder)

    scorers, combination, num_reference = _fit_scorers(command, observer, reference)
    scores, patch_heat, residual_heat = _calibrate(command, observer, held_out, scorers, combination, false_alarm_rate)
    column = SCORE_NAMES.index(score)
    facts = DetectorFacts(
        model=str(Path(model).resolve()) if Path(model).exists() else model,
        model_digest=encoder.digest,
        image_size=encoder.image_size,
        channels=encoder.channels,
        resize=encoder.resize,
        features=features,
        features_name=encoder.features_name,
        backbone=backbone,
        backbone_digest=encoder.backbone_digest,
        only_classes=list(only_classes),
        num_reference=num_reference,
        num_calibration=len(scores),
        score=score,
        false_alarm_rate=false_alarm_rate,
        threshold=threshold(scores[:, column], false_alarm_rate),
        in_tiles=encoder.works_in_tiles,
    )
    detector = Detector(facts, observer, scorers, combination, scores, patch_heat, residual_heat)
    if (before := stored_facts(out)) is not None:
        command.say(f"{out}: takes the place of a detector of {_in_short(before)}")
    command.processes.first(lambda: detector.save(out))
    command.say(
        f"{facts.score} of {facts.features_name}: {counted(num_reference, 'reference photo')}, "
        f"{counted(len(scores), 'calibration photo')}; "
        f"a photo that scores above {facts.threshold:.4g} is novel, at a false-alarm rate of {false_alarm_rate:g}"
    )
    command.say(_certainty(len(scores), false_alarm_rate))
    command.tell_left_out()
    command.hand_over(out)
    command.check_left_out(len(reference) + len(held_out), f"the detector in {out} is of the others")
    return facts


def score(
    photos: Path,
    detector: Path,
    *,
    out: Path = Path("scores.csv"),
    heat_maps: Path | None = None,
    model: str | None = None,
) -> list[NoveltyVerdict]:
    """Verdicts on photos, without their heat maps, written to the table `out` and the pictures to `heat_maps`.

    A photo that cannot be read has a line as well. Each of several processes examines its share; the first one writes
    the table and returns the verdicts. Raises DataError and WeightsError as `photo_records` and `open_detector`,
    and at the end ManyUnreadableError where more than one in a hundred cannot be read.
    """
    command = DeskCommand(launched=True)

    def check_places() -> None:
        check_output_file(out, "table", TABLE_SUFFIXES)
        if heat_maps is not None:
            check_new_folder(heat_maps)

    command.processes.first(check_places)  # before another process has written anything
    opened = Detector.open(detector, model=model, device=command.processes.device)
    records = photo_records(photos)
    command.tell_unseen(records, opened.facts.image_size, opened.facts.resize)

    def judge(batch: PhotoBatch) -> list[NoveltyVerdict]:
        verdicts = opened.judge(batch, heat_maps=heat_maps is not None)
        if heat_maps is not None:
            for verdict in verdicts:
                _save_picture(_heat_map_file(heat_maps, verdict.record.id), verdict.heat_map)
        return [replace(verdict, heat_map=None) for verdict in verdicts]

    with command.progress("judging photos") as report:
        found = command.over_photos(opened.observer.encoder, records, judge, report=report)
    verdicts = [verdict for batch in found for verdict in batch]
    command.processes.first(lambda: _write_table(out, verdicts, [name for name, _ in command.unreadable.photos]))
    command.tell_left_out()
    if num_references := sum(verdict.is_reference for verdict in verdicts):
        were, their = ("was", "its") if num_references == 1 else ("were", "their")
        command.say(
            f"{num_references:,} of {counted(len(verdicts), 'photo')} {were} among those that the detector was fitted "
            f"on; {their} scores are too low to say anything"
        )
    facts, num_novel = opened.facts, sum(verdict.novel for verdict in verdicts)
    are = "is" if num_novel == 1 else "are"
    command.say(
        f"{num_novel:,} of {counted(len(verdicts), 'photo')} {are} novel by {facts.score} "
        f"of {facts.features_name}, at a false-alarm rate of {facts.false_alarm_rate:g} on "
        f"{counted(facts.num_calibration, 'calibration photo')}"
        + (f"; the detector knows photos of {', '.join(facts.only_classes)} only" if facts.only_classes else "")
    )
    command.hand_over(out)
    if heat_maps is not None:
        command.hand_over(heat_maps)
    command.check_left_out(len(records), f"the others are judged in {out}")
    return verdicts


def _in_short(facts: DetectorFacts) -> str:
    classes = f" of {', '.join(facts.only_classes)}" if facts.only_classes else ""
    return (
        f"{counted(facts.num_reference + facts.num_calibration, 'photo')}{classes}, at a false-alarm rate of "
        f"{facts.false_alarm_rate:g} with the threshold {facts.threshold:.4g}"
    )


def _certainty(num_calibration: int, rate: float) -> str:
    """How well a number of calibration photos holds the rate, and how many would hold it better."""

    def within(count: int) -> str:
        low, high = true_rates(count, rate)
        return f"between {100 * low:.2g} and {100 * high:.2g} %"

    enough = ceil(_CERTAIN_ALARMS / rate)
    said = (
        f"with {counted(num_calibration, 'calibration photo')} the true rate lies {within(num_calibration)} "
        "(95 % confidence)"
    )
    return said if num_calibration >= enough else f"{said}, with {enough:,} it would lie {within(enough)}"


def _fit_scorers(
    command: DeskCommand, observer: PhotoObserver, reference: Sequence[Record]
) -> tuple[Scorers, Combination, int]:
    """The scorers, their combination, and how many photos could be read, in every process."""
    patches_a_photo = max(1, PATCH_BUDGET // len(reference))

    def look(batch: PhotoBatch) -> Observations:
        seen = observer(batch).observations
        return replace(seen, patches=some_patches(batch, seen.patches, patches_a_photo))

    with command.progress("looking at reference photos") as report:
        found = command.over_photos(observer.encoder, reference, look, report=report)

    def fit_first() -> tuple[Scorers, Combination, int]:
        _check_readable(command, sum(map(len, found)), len(reference), MIN_REFERENCE_PHOTOS, "reference")
        seen = Observations.cat(found)
        combination = Combination.fit(held_out_scores(seen, num_pixels=observer.num_pixels))
        return Scorers.fit(seen, num_pixels=observer.num_pixels), combination, len(seen)

    return command.processes.first(fit_first)


def _calibrate(
    command: DeskCommand,
    observer: PhotoObserver,
    held_out: Sequence[Record],
    scorers: Scorers,
    combination: Combination,
    rate: float,
) -> tuple[Tensor, HeatScale, HeatScale]:
    """Scores of the calibration photos [n, 7], and the scales of both heat maps, in every process."""

    def look(batch: PhotoBatch) -> tuple[Tensor, Tensor]:
        seen = observer(batch)
        maps = torch.stack([each.flatten(1) for each in shown_maps(scorers, seen)], dim=1)
        return all_scores(scorers, combination, seen.observations), torch.stack([maps.mean(dim=2), maps.amax(dim=2)])

    with command.progress("looking at calibration photos") as report:
        found = command.over_photos(observer.encoder, held_out, look, report=report)

    def scale_first() -> tuple[Tensor, HeatScale, HeatScale]:
        num_readable = sum(len(scores) for scores, _ in found)
        _check_readable(command, num_readable, len(held_out), photos_needed(rate), "calibration")
        means, maxima = torch.cat([extent for _, extent in found], dim=1)
        patches, residual = fit_scales(means, maxima, rate)
        return torch.cat([scores for scores, _ in found]), patches, residual

    return command.processes.first(scale_first)


def _check_readable(command: DeskCommand, readable: int, num_photos: int, needed: int, what: str) -> None:
    if readable < needed:
        command.tell_left_out()
        raise DataError(
            f"only {readable:,} of {counted(num_photos, f'{what} photo')} can be read, and it takes {needed:,}"
        )


def _heat_map_file(folder: Path, photo_id: str) -> Path:
    """`<id>.png`, different for every id."""
    *folders, name = PurePosixPath(photo_id).parts
    return folder.joinpath(*map(lengthened, folders), lengthened(name, ".png"))


def _save_picture(file: Path, picture: np.ndarray | None) -> None:
    assert picture is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    write_picture(file, Image.fromarray(picture))


def _write_table(out: Path, verdicts: Sequence[NoveltyVerdict], unreadable: Sequence[str]) -> None:
    """One line a photo, in the order of their names, whole or not at all."""
    rows = {
        verdict.record.id: [
            "novel" if verdict.novel else "seen",
            f"{verdict.p_value:.6g}",
            *(f"{verdict.scores[name]:.6g}" for name in SCORE_NAMES),
            verdict.features_name,
        ]
        for verdict in verdicts
    }
    rows |= {name: ["unreadable", *[""] * (len(SCORE_NAMES) + 2)] for name in unreadable}
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["id", "verdict", "p_value", *SCORE_NAMES, "features"])
    writer.writerows([record_id, *rows[record_id]] for record_id in sorted(rows))
    write_whole(out, table.getvalue())
