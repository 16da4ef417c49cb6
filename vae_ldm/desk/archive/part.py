"""One Parquet file of an archive: a picture a row, its latents or a codec's file in one binary column.

A part is written once, as a whole, and never changed. Whatever a damaged one still holds is read.
"""

import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vae_ldm.files import write_whole
from vae_ldm.text import counted

PART_NAME = re.compile(r"part-(\d{6,})\.parquet")
_ROWS_AT_ONCE = 16
_MOST_PIXELS = 89_478_485
"""Most pixels of a photo that `archive add` takes; a stored size above it would only claim memory."""


@dataclass(frozen=True)
class Entry:
    """One archived picture."""

    id: str
    """Path relative to the folder it came from."""
    source: str
    """The file it was."""
    content: bytes
    """Digest of that file's bytes."""
    width: int
    height: int
    channels: int
    """1 grey, 3 RGB, 4 RGBA."""
    label: str | None
    caption: str | None
    method: str
    """What the payload is: `latents`, `avif`, `webp`, or `file` for the source's own bytes."""
    psnr: float
    """dB against the source when it was encoded, after all rounding."""
    payload: bytes

    def checksum(self) -> int:
        """CRC-32 of all fields."""
        described = [
            getattr(self, field.name).hex() if field.name == "content" else getattr(self, field.name)
            for field in fields(self)
            if field.name != "payload"
        ]
        return zlib.crc32(self.payload, zlib.crc32(json.dumps(described).encode()))


_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("content", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("channels", pa.int8(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("method", pa.string(), nullable=False),
        pa.field("psnr", pa.float64(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
    ]
)
_UNCOMPRESSED = {"content": "none", "payload": "none"}
_COMPRESSION = dict.fromkeys(_SCHEMA.names, "zstd") | _UNCOMPRESSED


class Damage(NamedTuple):
    """Something that cannot be read."""

    where: str
    """A picture's id, or a file's name."""
    what: str


class ArchivePart(NamedTuple):
    """A file of the set, as archive.json names it."""

    name: str
    num_pictures: int
    num_bytes: int
    sha256: str

    @property
    def number(self) -> int:
        """Its place in the order in which parts were written."""
        named = PART_NAME.fullmatch(self.name)
        assert named, self.name
        return int(named[1])

    def is_whole(self, folder: Path) -> bool:
        """Whether its file in `folder` is there and no byte of it has changed."""
        try:
            with (folder / self.name).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256
        except OSError:
            return False

    def entries(
        self,
        folder: Path,
        on_damage: Callable[[Damage], None],
        newest: Mapping[str, "ArchivePart"] | None = None,
    ) -> Iterator[Entry]:
        """The pictures that are as they were written, and of which `newest` names no other part."""
        for row in self.rows(folder, on_damage):
            checksum = row.pop("checksum")
            entry = Entry(**row)
            if newest is not None and newest.get(entry.id, self) != self:
                continue
            if entry.checksum() != checksum:
                on_damage(Damage(entry.id, f"is damaged in {self.name} (its checksum is another)"))
            elif min(entry.width, entry.height) < 1 or entry.width * entry.height > _MOST_PIXELS:
                on_damage(Damage(entry.id, f"cannot be of {entry.width}x{entry.height} pixels"))
            else:
                yield entry

    def rows(
        self, folder: Path, on_damage: Callable[[Damage], None], columns: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows as far as they can be read: all columns, or those named."""
        count = 0
        try:
            with pq.ParquetFile(folder / self.name) as file:
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                    _check_columns(batch, columns or _SCHEMA.names)
                    rows = batch.to_pylist()
                    yield from rows
                    count += len(rows)
        except FileNotFoundError:
            on_damage(Damage(self.name, f"is missing, with {counted(self.num_pictures, 'photo')}"))
        except (OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            lost = f"{self.num_pictures - count} of its {counted(self.num_pictures, 'photo')} cannot be read"
            on_damage(Damage(self.name, f"{lost} ({reason})"))
        else:
            if count != self.num_pictures:
                on_damage(Damage(self.name, f"holds {counted(count, 'photo')} instead of {self.num_pictures}"))


def write_part(folder: Path, number: int, entries: Sequence[Entry]) -> ArchivePart:
    """Write a part of these pictures, which no index names yet."""
    stream = io.BytesIO()
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for entry in entries:
        for name, column in columns.items():
            column.append(entry.checksum() if name == "checksum" else getattr(entry, name))
    pq.write_table(
        pa.table(columns, schema=_SCHEMA),
        stream,
        compression=_COMPRESSION,
        use_dictionary=["label", "caption", "method"],
        write_statistics=False,
        store_schema=False,
        row_group_size=len(entries),
    )
    content = stream.getvalue()
    name = f"part-{number:06d}.parquet"
    write_whole(folder / name, content, synced=True)
    return ArchivePart(name, len(entries), len(content), hashlib.sha256(content).hexdigest())


def _check_columns(batch: pa.RecordBatch, names: Sequence[str]) -> None:
    """Raise ValueError where a damaged file has other columns than those that were written."""
    for name in names:
        wanted = _SCHEMA.field(name)
        if name not in batch.schema.names or batch.schema.field(name).type != wanted.type:
            raise ValueError(f"its column {name} is not as it was written")
        if batch.column(name).null_count and not wanted.nullable:
            raise ValueError(f"its column {name} has gaps")
