"""Which photos a detector of novelty is fitted on, which are known damage, and whether they are enough."""

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from vae_ldm.data.decoding import UnreadablePictureError, decode_picture, pillow_limit_lifted
from vae_ldm.data.names import as_text
from vae_ldm.data.photo_groups import series_of
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.sources import Record
from vae_ldm.data.unreadable import Unreadable
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.terminal import new_console
from vae_ldm.text import counted

MAX_PHOTOS = 100_000
"""Most reference photos; of more, so many are taken by a hash of their names."""
MAX_KNOWN = 4_000
"""Most photos of known classes."""
MIN_PHOTOS = 8
"""`MIN_GROUPS` of `cross_fitted`, which this module does not import because torch comes with it."""
_HARDLY = 1.5
"""Photos up to this many times the least number are hardly enough, because some may not be readable."""
_P_VALUE = re.compile(r"^[01]\.\d{3}  ")
"""What stands before a name in the lines that `novelty inspect` prints."""
_SMALL = (64, 64)
"""The size at which they are decoded; large JPEGs are reduced on the way."""


def reference_photos(
    photos: Path, only_classes: Sequence[str], *, list_photos: Callable[[Path], list[Record]] = photo_records
) -> tuple[list[Record], list[Record]]:
    """Photos of the usual kind, and photos of known classes, each in the order of a hash of their names.

    Usual are those of `only_classes`, and then the other classes are the known ones; where none is named all photos are
    usual, and those that have a class are known by it. `list_photos` gives the records of the folder. Raises DataError
    for a class that has no photos.
    """
    records = list_photos(photos)
    known = [record for record in records if record.label is not None and record.label not in only_classes]
    if only_classes:
        _check_classes(photos, records, only_classes)
        records = [record for record in records if record.label in only_classes]
    elif len({record.label for record in known}) == 1:
        known = []  # all photos are of one class, and there is nothing to tell apart
    return _by_hash(records)[:MAX_PHOTOS], _by_hash(known)[:MAX_KNOWN]


def _check_classes(photos: Path, records: Sequence[Record], only_classes: Sequence[str]) -> None:
    known = sorted({record.label for record in records if record.label is not None})
    for label in only_classes:
        if label not in known:
            nearest = difflib.get_close_matches(label, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"its classes: {', '.join(known) or 'none'}"
            raise DataError(f"{photos}: has no photos of a class {label}; {hint}")


def _by_hash(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: hashlib.sha256(os.fsencode(record.id)).digest())


def names_to_leave_out(file: Path, reference: Sequence[Record], photos: Path) -> set[str]:
    """The ids in the text file, one a line; empty lines and those that begin with # are passed over.

    An id is a photo's path within `photos`, as `novelty inspect` and `novelty score` write it; the photo's own path is
    taken as well, and so is a line as `novelty inspect` prints it, with its p-value.

    Raises DataError where the file cannot be read, names no photo, or names one that is not among `reference`.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(f"{file}: cannot be read ({why})") from error
    by_name = {record.id: record.id for record in reference} | {record.place: record.id for record in reference}
    found = set()
    for number, line in enumerate(lines, start=1):
        name = line if line in by_name else line.strip()
        if not name or (name.startswith("#") and name not in by_name):
            continue
        if name not in by_name:
            name = _as_id(_P_VALUE.sub("", name))
        if name not in by_name:
            nearest = difflib.get_close_matches(name, by_name, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "one line is one photo, by its path within the folder"
            raise DataError(f"{file}, line {number}: {name} is no photo of {photos} that is usual; {hint}")
        found.add(by_name[name])
    if not found:
        raise DataError(f"{file}: names no photo; write one a line, by its path within {photos}")
    return found


def _as_id(line: str) -> str:
    """The id of a file that is listed by its own bytes, which need be no UTF-8."""
    try:
        return as_text(line)
    except UnicodeEncodeError:
        return line


def check_photos(
    photos: Path,
    *,
    false_alarm_rate: float,
    only_classes: Sequence[str] = (),
    series: str | None = None,
    leave_out: Path | None = None,
) -> None:
    """Raise what `fit` would raise of the photos, before a model is opened: see `check_enough`."""
    check_rate(false_alarm_rate)
    reference, _ = reference_photos(photos, only_classes)
    if series is not None:
        num_series = len(set(series_of([record.id for record in reference], series).tolist()))
        if num_series < MIN_PHOTOS <= len(reference):
            raise DataError(
                f"too few photos: the {len(reference):,} here are of {num_series:,} series, which count as one photo "
                f"each, and it takes {counted(MIN_PHOTOS, 'usual photo')} to compare with; give more photos"
            )
    left_out = names_to_leave_out(leave_out, reference, photos) if leave_out is not None else ()
    check_enough(reference, len(left_out))


def check_rate(false_alarm_rate: float) -> None:
    """Raise VaeLdmError for a rate that is none."""
    if not 0 < false_alarm_rate < 1:
        raise VaeLdmError(f"a false-alarm rate is between 0 and 1, not {false_alarm_rate:g}")


def check_enough(reference: Sequence[Record], num_left_out: int = 0) -> None:
    """Raise DataError where usual photos are too few to compare with, beside those that are left out.

    Photos that are hardly enough are looked through, and those that cannot be read are told and not counted.
    """
    if len(reference) - num_left_out > _HARDLY * MIN_PHOTOS:
        return
    unreadable = Unreadable()
    readable = list(_readable(reference, unreadable))
    if len(readable) - num_left_out >= MIN_PHOTOS:
        return
    if os.environ.get("RANK", "0") == "0":  # of several processes that were launched the first one tells
        for line in unreadable.lines():
            new_console().say(line)
    raise DataError(too_few(len(reference), len(unreadable), num_left_out))


def too_few(num_photos: int, num_unreadable: int, num_left_out: int) -> str:
    """What is said where there are fewer than MIN_PHOTOS to compare with."""
    less = [f"{num_unreadable:,} cannot be read"] if num_unreadable else []
    less += [f"{num_left_out:,} {'is' if num_left_out == 1 else 'are'} left out"] if num_left_out else []
    of_which = f", of which {' and '.join(less)}" if less else ""
    return (
        f"too few photos: {counted(MIN_PHOTOS, 'usual photo')} are needed to compare with, and there "
        f"{'is' if num_photos == 1 else 'are'} {num_photos:,}{of_which}; give more photos"
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
