"""`vae-ldm novelty inspect`: what a detector finds at which false-alarm rate, and the oddest of its usual photos."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from vae_ldm.data.decoding import UnreadablePictureError, pillow_limit_lifted
from vae_ldm.data.names import as_bytes
from vae_ldm.data.photo_stream import WholePhotos, decode_within
from vae_ldm.data.sources import Record
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.novelty.detector import Detector, NoveltyVerdict
from vae_ldm.desk.novelty.detector_folder import ReferenceNames, open_detector, reference_names
from vae_ldm.desk.novelty.inspection_page import Inspection, OddPhoto, RateRow, ScoredPhotos, write_inspection
from vae_ldm.hardware import device_name
from vae_ldm.latent_space.conformal import cross_promise, threshold
from vae_ldm.latent_space.false_alarms import photos_needed
from vae_ldm.paths import PAGE_SUFFIXES, check_output_file

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
NUM_ODD = 12
_SHOWN_SIDE = 320


def inspect_detector(
    detector: Path, *, out: Path = Path("inspection.html"), good: Path | None = None, bad: Path | None = None
) -> Inspection:
    """What the page `out` shows of a detector; the oddest usual photos are printed too.

    Each usual photo is scored by a fit that has not seen it. `good` and `bad` are folders of photos to count false
    alarms and found damage on. Raises VaeLdmError where the page cannot be written, what opening a detector and reading
    photos raises, and at the end ManyUnreadableError where more than one in a hundred cannot be read.
    """
    command = DeskCommand()
    check_output_file(out, "page", PAGE_SUFFIXES)
    opened, names = open_detector(detector), reference_names(detector)
    scored = {name: _scored(command, opened, folder) for name, folder in (("good", good), ("bad", bad)) if folder}
    held = opened.scores
    odd = [_odd_photo(opened, names, row) for row in _oddest(opened, names)]
    page = Inspection(
        detector=str(detector),
        facts=opened.facts,
        usual=held.held_out.numpy(),
        good=scored.get("good"),
        bad=scored.get("bad"),
        rates=[_rate_row(opened, rate) for rate in RATES],
        promise=cross_promise(opened.facts.false_alarm_rate, opened.facts.num_calibration, len(held.models)),
        odd=odd,
        left_out=[name for name, is_out in zip(names.ids, names.left_out, strict=True) if is_out],
        device=device_name(opened.observer.device),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_inspection(out, page)  # first: whoever reads the list may stop after a few lines, as head does
    command.hand_over(f"# The {len(odd)} usual photos that are the oddest, each with its p-value:")
    for photo in odd:
        command.hand_over(f"{photo.p_value:.3f}  {photo.id}")
    command.tell_left_out()
    command.hand_over(out)
    num_photos = sum(each.num_photos for each in scored.values()) + len(command.unreadable)
    command.check_left_out(max(1, num_photos), f"the others are in {out}")
    return page


def _scored(command: DeskCommand, detector: Detector, folder: Path) -> ScoredPhotos:
    """Scores and p-values of the photos of a folder; at the least rate that the detector can judge at."""
    records = command.photo_records(folder)

    def judge(batch: WholePhotos) -> list[NoveltyVerdict]:
        return detector.judge(batch, heat_maps=False, false_alarm_rate=_any_rate(detector))

    with command.progress(f"judging photos of {folder.name}") as report:
        found = command.over_photos(detector.observer, records, judge, report=report)
    verdicts = [verdict for batch in found for verdict in batch]
    if not verdicts:
        command.refuse_all_left_out(f"{len(records):,} photos of {folder}")
    return ScoredPhotos(
        folder.name,
        np.array([verdict.score for verdict in verdicts]),
        np.array([verdict.p_value for verdict in verdicts], dtype=np.float64),
        sum(verdict.is_reference for verdict in verdicts),
    )


def _any_rate(detector: Detector) -> float:
    """A rate for which there are photos enough, so that every verdict has a p-value."""
    return max(detector.facts.false_alarm_rate, 1 / (detector.facts.num_calibration + 1))


def _rate_row(detector: Detector, rate: float) -> RateRow:
    held = detector.scores
    score = threshold(held.held_out, rate, held.groups) if detector.can_judge(rate) else None
    return RateRow(rate, photos_needed(rate), score, rate == detector.facts.false_alarm_rate)


def _oddest(detector: Detector, names: ReferenceNames) -> Sequence[int]:
    """Rows of the oddest usual photos that are not left out: by p-value, and among equals by score."""
    held = detector.scores
    kept = (~torch.tensor(names.left_out)).nonzero().flatten()
    order = held.held_out[kept].argsort(descending=True, stable=True)
    order = order[held.held_out_p_values()[kept[order]].argsort(stable=True)]
    return kept[order[:NUM_ODD]].tolist()


def _odd_photo(detector: Detector, names: ReferenceNames, row: int) -> OddPhoto:
    """One usual photo as the page shows it; without pictures where its file is gone or has changed."""
    held = detector.scores
    picture = heat_map = None
    record = Record(names.ids[row], Path(os.fsdecode(as_bytes(names.places[row]))))
    try:
        with pillow_limit_lifted():
            picture = decode_within(record.picture, _SHOWN_SIDE)
            whole = next(iter(detector.observer.batches([record])))
        (verdict,) = detector.judge(whole)
        heat_map = verdict.heat_map if verdict.is_reference else None
    except (UnreadablePictureError, StopIteration):
        pass
    return OddPhoto(
        names.ids[row],
        names.places[row],
        held.held_out[row].item(),
        held.held_out_p_values()[row].item(),
        picture,
        heat_map,
    )
