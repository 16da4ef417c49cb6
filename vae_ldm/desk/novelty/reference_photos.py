"""Which photos a detector of novelty is fitted on, which it is calibrated on, and whether they are enough."""

import difflib
import hashlib
import os
from collections.abc import Iterable, Sequence
from math import ceil
from pathlib import Path

from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.sources import Record
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.latent_space.false_alarms import photos_needed

MAX_PHOTOS = 20_000
"""Most reference photos, and most calibration photos; more make a detector large and slow, not better."""
MIN_REFERENCE_PHOTOS = 10


def reference_and_calibration(
    photos: Path, calibration: Path | float, only_classes: Sequence[str]
) -> tuple[list[Record], list[Record]]:
    """Reference and calibration photos, in the order of a hash of their names, at most MAX_PHOTOS each."""
    records = _by_hash(_of_classes(photos, only_classes))
    if isinstance(calibration, Path):
        held_out = _by_hash(_of_classes(calibration, only_classes))
    else:
        if not 0 < calibration < 1:
            raise VaeLdmError(f"a share of photos to calibrate on is between 0 and 1, not {calibration:g}")
        count = round(len(records) * calibration)
        records, held_out = records[count:], records[:count]
    return records[:MAX_PHOTOS], held_out[:MAX_PHOTOS]


def _of_classes(photos: Path, only_classes: Sequence[str]) -> list[Record]:
    records = photo_records(photos)
    if not only_classes:
        return records
    known = sorted({record.label for record in records if record.label is not None})
    for label in only_classes:
        if label not in known:
            nearest = difflib.get_close_matches(label, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"its classes: {', '.join(known) or 'none'}"
            raise DataError(f"{photos}: has no photos of a class {label}; {hint}")
    return [record for record in records if record.label in only_classes]


def _by_hash(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: hashlib.sha256(os.fsencode(record.id)).digest())


def check_photos(
    photos: Path,
    *,
    false_alarm_rate: float,
    calibration: Path | float = 1 / 3,
    only_classes: Sequence[str] = (),
) -> None:
    """Raise DataError where `fit` would find the photos too few, before anything is looked at."""
    reference, held_out = reference_and_calibration(photos, calibration, only_classes)
    check_counts(len(reference), len(held_out), false_alarm_rate, calibration)


def check_counts(num_reference: int, num_held_out: int, rate: float, calibration: Path | float) -> None:
    """Raise DataError where photos are too few, with all that it takes in one line; VaeLdmError for a wrong rate."""
    if not 0 < rate < 1:
        raise VaeLdmError(f"a false-alarm rate is between 0 and 1, not {rate:g}")
    needed = photos_needed(rate)
    if num_held_out >= needed and num_reference >= MIN_REFERENCE_PHOTOS:
        return
    total = ""
    if not isinstance(calibration, Path):
        least = ceil(max(needed / calibration, MIN_REFERENCE_PHOTOS / (1 - calibration)))
        total = f"at least {least} photos are needed, and there are {num_reference + num_held_out}: "
    lowest = 1 / (num_held_out + 1)
    other = f", or a --false-alarm-rate of {lowest:.2g} or more" if num_reference >= MIN_REFERENCE_PHOTOS else ""
    raise DataError(
        f"too few photos: {total}{MIN_REFERENCE_PHOTOS} to compare with ({num_reference} here) and, for a false-alarm "
        f"rate of {rate:g}, {needed} to calibrate on ({num_held_out} here); give more photos{other}"
    )
