"""Metadata files beside pictures: metadata.jsonl, .csv and .parquet, as `datasets` imagefolder reads them."""

import csv
import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from vae_ldm.data.decoding import Picture, Unusable
from vae_ldm.data.names import as_text
from vae_ldm.data.sources import Record
from vae_ldm.errors import DataError, first_line
from vae_ldm.text import shown

CAPTION_COLUMNS = ("caption", "text")
"""Where captions are looked for unless a column is named."""

_Row = tuple[int, dict[str, Any]]
"""The number of its line, or of its row in a parquet file, from 1 on; and its fields."""


class _Described(NamedTuple):
    """What one row says of a picture."""

    place: str
    label: Any
    caption: Any
    record: Record


def read_metadata(
    folder: Path,
    names: Iterable[str],
    caption_column: str | Sequence[str] | None,
    *,
    captions_of_classes: bool = True,
) -> dict[str, Record]:
    """The pictures that the metadata files `names` below `folder` speak of, by their paths relative to `folder`.

    A picture in several rows that say the same of it is there once.

    The caption is in `caption_column`, which must be there, or in the first of several that is; without
    `captions_of_classes` a picture that has a label gets no caption from such a guess. A label or caption that is no
    text makes a record whose picture cannot be used.

    Raises DataError, in one line with the file and the row, where the file cannot be read, or a row has no file_name,
    more fields than columns, a file_name outside the folder, or no such column; where rows contradict one another, or a
    file has no rows.
    """
    found: dict[str, _Described] = {}
    for name in names:
        place = None
        for picture, row in _described(folder, name, caption_column, captions_of_classes):
            place, first = row.place, found.setdefault(picture, row)
            for what, value, other in (("label", row.label, first.label), ("caption", row.caption, first.caption)):
                if _as_string(value) != _as_string(other):
                    raise DataError(
                        f"{place}: gives {shown(as_text(picture))} another {what} than {first.place}; "
                        "leave one of them out"
                    )
        if place is None:
            raise DataError(
                f"{shown(as_text(folder / name))}: names no pictures; list them, a row each with file_name, or delete "
                "this file"
            )
    return {picture: row.record for picture, row in found.items()}


def _described(
    folder: Path, name: str, caption_column: str | Sequence[str] | None, captions_of_classes: bool
) -> Iterator[tuple[str, _Described]]:
    file = folder / name
    for number, row in _rows(file):
        place = f"{shown(as_text(file))}, {_row_word(file)} {number:,}"
        if None in row:
            raise DataError(f"{place}: more fields than columns; put text that holds commas in double quotes")
        file_name = row.get("file_name")
        if not isinstance(file_name, str):
            if file_name is not None and "file_name" in row:
                raise DataError(f"{place}: file_name is {_briefly(file_name)}, not text")
            columns = ", ".join(shown(str(column)) for column in row)
            hint = "; separate columns by commas" if len(row) == 1 and ";" in columns else ""
            raise DataError(f"{place}: every row needs a file_name; this one has {columns or 'nothing'}{hint}")
        picture = posixpath.normpath(posixpath.join(posixpath.dirname(name), file_name))
        if picture.startswith(("/", "../")):
            raise DataError(f"{place}: {shown(file_name)} lies outside {folder}")
        try:
            os.fsencode(picture)
        except UnicodeEncodeError:
            raise DataError(f"{place}: no file can be named {shown(file_name)}") from None
        label = row.get("label")
        if isinstance(caption_column, str):
            if caption_column not in row:
                raise DataError(f"{place}: has no column {caption_column}; it has {', '.join(map(str, row))}")
            caption = row[caption_column]
        elif label is not None and not captions_of_classes:
            caption = None
        else:
            caption = next((row[column] for column in caption_column or () if row.get(column)), None)
        record = _record(picture, folder / picture, label, caption, f"{posixpath.basename(name)}, {number:,}")
        yield picture, _Described(place, label, caption, record)


def _record(name: str, picture: Picture, label: Any, caption: Any, place: str) -> Record:
    for what, value, types in (("label", label, str | int | float), ("caption", caption, str)):
        if value is not None and not isinstance(value, types):
            kinds = "text" if types is str else "text or a number"
            return Record(as_text(name), Unusable(f"its {what} is {_briefly(value)}, not {kinds} (row {place})"))
        if isinstance(value, str) and not _is_unicode(value):
            return Record(as_text(name), Unusable(f"its {what} holds half a character (row {place})"))
    return Record(as_text(name), picture, None if label is None else _as_string(label), caption)


def _as_string(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # a whole number of more than 4,300 digits
        return hex(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _briefly(value: Any) -> str:
    text = shown(str(value))
    return text if len(text) <= 40 else f"{text[:37]}..."


def _row_word(file: Path) -> str:
    return "row" if file.suffix == ".parquet" else "line"


def _rows(file: Path) -> Iterator[_Row]:
    """The rows of a metadata file; a DataError, in one line, where there are none to be read."""
    try:
        if file.suffix == ".parquet":
            yield from _parquet_rows(file)
            return
        with file.open(encoding="utf-8-sig", newline="") as stream:
            if file.suffix == ".csv":
                yield from _csv_rows(file, stream)
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _json_row(file, number, line)
    except UnicodeDecodeError:
        number = _first_line_without_utf8(file)
        raise DataError(
            f"{shown(as_text(file))}, line {number:,}: not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8)"
        ) from None
    except OSError as error:
        raise DataError(f"{shown(as_text(file))}: cannot be read ({error.strerror or first_line(error)})") from None


def _csv_rows(file: Path, stream: TextIO) -> Iterator[_Row]:
    reader = csv.DictReader(stream)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        place = f"{shown(as_text(file))}, line {reader.line_num + 1:,}"
        raise DataError(f"{place}: not CSV ({first_line(error)})") from None


def _parquet_rows(file: Path) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(file).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{shown(as_text(file))}: cannot be read as parquet ({first_line(error)})") from None
    yield from enumerate(rows, start=1)


def _json_row(file: Path, number: int, line: str) -> dict[str, Any]:
    place = f"{shown(as_text(file))}, line {number:,}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg})") from None
    except RecursionError:
        raise DataError(f"{place}: nested too deeply") from None
    except ValueError:  # Python reads whole numbers of 4,300 digits at most
        raise DataError(f"{place}: holds a number with too many digits; write it as text, in quotes") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be an object with file_name")
    return row


def _first_line_without_utf8(file: Path) -> int:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1
