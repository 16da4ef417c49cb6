"""Which photos a detector of novelty is fitted on, which it is calibrated on, and whether they are enough."""

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from pathlib import Path

from vae_ldm.data.decoding import UnreadablePictureError, decode_picture, pillow_limit_lifted
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.sources import Record
from vae_ldm.data.unreadable import Unreadable
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.latent_space.false_alarms import photos_needed
from vae_ldm.terminal import new_console

MAX_PHOTOS = 20_000
"""Most reference photos, and most calibration photos; more make a detector large and slow, not better."""
MIN_REFERENCE_PHOTOS = 10
_HARDLY = 1.1
"""Photos up to this many times the least number are hardly enough, because some may not be readable."""
_MOST_LOOKED_THROUGH = 400
_SMALL = (64, 64)
"""The size at which they are decoded; large JPEGs are reduced on the way."""


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
    """Raise DataError where `fit` would find the photos too few; see `check_enough`."""
    reference, held_out = reference_and_calibration(photos, calibration, only_classes)
    check_enough(reference, held_out, false_alarm_rate, calibration)


def check_enough(
    reference: Sequence[Record], held_out: Sequence[Record], rate: float, calibration: Path | float
) -> None:
    """Raise DataError where photos are too few, with all that it takes in one line; VaeLdmError for a wrong rate.

    Photos that are too few or hardly enough are looked through, and those that cannot be read are told and not counted.
    """
    if not 0 < rate < 1:
        raise VaeLdmError(f"a false-alarm rate is between 0 and 1, not {rate:g}")
    needed = photos_needed(rate)
    if len(held_out) > _HARDLY * needed and len(reference) > _HARDLY * MIN_REFERENCE_PHOTOS:
        return
    unreadable = Unreadable()
    if len(reference) + len(held_out) <= _MOST_LOOKED_THROUGH:
        reference, held_out = (list(_readable(records, unreadable)) for records in (reference, held_out))
    if len(held_out) >= needed and len(reference) >= MIN_REFERENCE_PHOTOS:
        return
    if os.environ.get("RANK", "0") == "0":  # of several processes that were launched the first one tells
        for line in unreadable.lines():
            new_console().say(line)
    num_readable = len(reference) + len(held_out)
    if unreadable:
        are = f"{num_readable + len(unreadable):,}, of which {len(unreadable):,} cannot be read"
    else:
        are = f"{num_readable:,}"
    total = ""
    if not isinstance(calibration, Path):
        least = ceil(max(needed / calibration, MIN_REFERENCE_PHOTOS / (1 - calibration)))
        total = f"at least {least:,} photos are needed, and there are {are}: "
    elif unreadable:
        total = f"there are {are}: "
    lowest = 1 / (len(held_out) + 1)
    other = f", or a --false-alarm-rate of {lowest:.2g} or more" if len(reference) >= MIN_REFERENCE_PHOTOS else ""
    raise DataError(
        f"too few photos: {total}{MIN_REFERENCE_PHOTOS} to compare with ({len(reference):,} here) and, for a "
        f"false-alarm rate of {rate:g}, {needed:,} to calibrate on ({len(held_out):,} here); give more photos{other}"
    )


def _readable(records: Iterable[Record], unreadable: Unreadable) -> Iterator[Record]:
    """The records whose photos can be decoded; the others are added to `unreadable`."""
    with pillow_limit_lifted():
        for record in records:
            try:
                decode_picture(record.picture, image_size=_SMALL)
            except UnreadablePictureError as error:
                unreadable.add(record.id, str(error))
            else:
                yield record
