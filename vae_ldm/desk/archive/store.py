"""A Parquet file set of pictures: one row a picture, its latents or a codec's file in one binary column.

Parts are written once, as a whole, and never changed; archive.json names those that count, with a digest of each.
A process that is killed leaves at most a part that is not named there, which the next one writes over.

archive.json is of format 2. Version 0.1.0 wrote format 1, in which `format` is a text and `downsample_factor` is not
stored; it is read as it was meant, and becomes format 2 when photos are added.
"""

import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from vae_ldm.choices import Preference
from vae_ldm.errors import DataError
from vae_ldm.files import locked as locked_file
from vae_ldm.files import remove_abandoned, safe_name, write_whole
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.paths import expanded
from vae_ldm.stored_json import StoredKind
from vae_ldm.text import counted

_KIND = StoredKind(newest=2, sealed_from=2, cure="bring it back from a copy", error=DataError)
_FORMAT_1 = "vae_ldm archive"
_PART = re.compile(r"part-(\d{6,})\.parquet")
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


class Part(NamedTuple):
    """A file of the set, as archive.json names it."""

    name: str
    num_pictures: int
    num_bytes: int
    sha256: str


class Damage(NamedTuple):
    """Something that cannot be read."""

    where: str
    """A picture's id, or a file's name."""
    what: str


@dataclass(frozen=True, eq=False)
class Settings:
    """What all pictures of an archive share."""

    model: str
    """The model's name when the archive was made."""
    digest: str
    """The digest of the model's weights."""
    target_psnr: float
    prefer: Preference
    coder: LatentCoder
    downsample_factor: int | None = None
    """Pixels to a latent; None in an archive of format 1, which does not say."""

    def as_json(self) -> dict[str, Any]:
        """All fields, as `from_json` reads them."""
        return {**vars(self), "coder": self.coder.as_json()}

    @classmethod
    def from_json(cls, where: Path, stored: dict[str, Any]) -> Self:
        """The settings that `as_json` gave. Raises DataError, which begins with `where`, for any others."""
        found = _KIND.typed(where, _StoredSettings, stored)
        try:
            coder = LatentCoder.from_json(found.coder)
        except (ValueError, LookupError, TypeError, zlib.error) as error:
            raise _KIND.damaged(where, f"its coder cannot be read: {error}") from None
        return cls(**{**vars(found), "coder": coder})


@dataclass(frozen=True)
class _StoredSettings:
    """Settings as archive.json holds them."""

    model: str
    digest: str
    target_psnr: float
    prefer: Preference
    coder: dict[str, Any]
    downsample_factor: int | None = None


class _StoredArchive(NamedTuple):
    """What archive.json holds."""

    settings: dict[str, Any]
    parts: list[Part]


class Archive:
    """An archive that exists. Reading needs no lock; `append` is for the one who holds `locked`."""

    def __init__(self, path: Path, settings: Settings, parts: Sequence[Part] = ()) -> None:
        self.path, self.settings = path, settings
        self.parts = list(parts)

    @classmethod
    def create(cls, path: Path, settings: Settings) -> Self:
        """An empty one in a folder that exists. Raises DataError where the folder holds anything else."""
        check_place(path)
        archive = cls(path, settings)
        archive._write_index()
        return archive

    @classmethod
    def open(cls, path: Path) -> Self:
        """The archive at `path`. Raises DataError where there is none, or its archive.json is damaged."""
        file = path / "archive.json"
        if not file.is_file():
            what = "is no archive (it has no archive.json)" if path.is_dir() else "no such folder"
            raise DataError(f"{path}: {what}; make one with `vae-ldm archive add`")
        stored = _KIND.loaded(file)
        if isinstance(stored, dict) and stored.get("format") == _FORMAT_1:
            _check_format_1(file, stored)
        else:
            _KIND.checked(str(file), stored)
        facts = _KIND.typed(file, _StoredArchive, [stored.get("settings"), stored.get("parts")])
        for part in facts.parts:
            if not _PART.fullmatch(safe_name(part.name, file)):
                raise _KIND.damaged(file, f"{part.name} is no name of a part")
        return cls(path, Settings.from_json(file, facts.settings), facts.parts)

    def __len__(self) -> int:
        """Rows, of which newer ones may stand for older."""
        return sum(part.num_pictures for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """The number of bytes of all files."""
        return sum(part.num_bytes for part in self.parts) + (self.path / "archive.json").stat().st_size

    def append(self, entries: Sequence[Entry]) -> None:
        """Write one more part. Whatever happens, the archive is as before or has all of them."""
        self._replace_parts([*self.parts, self._written(entries)])

    def mend(self, on_damage: Callable[[Damage], None]) -> None:
        """Put in the place of each damaged part one of those of its pictures that are whole; what is lost is told."""
        for part in list(self.parts):
            if self._is_whole(part):
                continue
            on_damage(Damage(part.name, "is damaged (its digest is another)"))
            whole = list(self._checked(part, on_damage))
            place = self.parts.index(part)
            self._replace_parts(
                [*self.parts[:place], *([self._written(whole)] if whole else []), *self.parts[place + 1 :]]
            )
            (self.path / part.name).unlink(missing_ok=True)

    def _written(self, entries: Sequence[Entry]) -> Part:
        """A new part of these pictures, which no index names yet."""
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
        number = 1 + max((_number(part) for part in self.parts), default=-1)
        name = f"part-{number:06d}.parquet"
        write_whole(self.path / name, content, synced=True)
        return Part(name, len(entries), len(content), hashlib.sha256(content).hexdigest())

    def _replace_parts(self, parts: Sequence[Part]) -> None:
        before, self.parts = self.parts, list(parts)
        try:
            self._write_index()
        except BaseException:
            self.parts = before
            raise

    def contents(self, on_damage: Callable[[Damage], None]) -> dict[str, bytes]:
        """The digest of each picture's file, by id, of its newest row; without those that are damaged."""
        found: dict[str, bytes] = {}
        for part in self.parts:
            if self._is_whole(part):
                found |= {row["id"]: row["content"] for row in self._rows(part, on_damage, ["id", "content"])}
                continue
            on_damage(Damage(part.name, "is damaged (its digest is another)"))
            for entry in self._checked(part, on_damage):
                found[entry.id] = entry.content
        return found

    def methods(self) -> dict[str, str]:
        """How each picture is kept, by id, of its newest row as far as that can be read."""
        return {row["id"]: row["method"] for part in self.parts for row in self._rows(part, _ignore, ["id", "method"])}

    def entries(self, on_damage: Callable[[Damage], None]) -> Iterator[Entry]:
        """Every picture's newest row, some at a time in memory; what is damaged is told and passed over."""
        newest = {row["id"]: part for part in self.parts for row in self._rows(part, _ignore, ["id"])}
        for part in self.parts:
            yield from self._checked(part, on_damage, newest)

    def check_files(self) -> Iterator[Damage]:
        """Every part that is missing, or of which a byte has changed."""
        for part in self.parts:
            if not self._is_whole(part):
                missing = not (self.path / part.name).is_file()
                yield Damage(part.name, "is missing" if missing else "is damaged (its digest is another)")

    def _is_whole(self, part: Part) -> bool:
        try:
            with (self.path / part.name).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == part.sha256
        except OSError:
            return False

    def _checked(
        self,
        part: Part,
        on_damage: Callable[[Damage], None],
        newest: Mapping[str, Part] | None = None,
    ) -> Iterator[Entry]:
        """The pictures of a part that are as they were written, and of which `newest` names no other part."""
        for row in self._rows(part, on_damage):
            checksum = row.pop("checksum")
            entry = Entry(**row)
            if newest is not None and newest.get(entry.id, part) != part:
                continue
            if entry.checksum() != checksum:
                on_damage(Damage(entry.id, f"is damaged in {part.name} (its checksum is another)"))
            elif min(entry.width, entry.height) < 1 or entry.width * entry.height > _MOST_PIXELS:
                on_damage(Damage(entry.id, f"cannot be of {entry.width}x{entry.height} pixels"))
            else:
                yield entry

    def _rows(
        self, part: Part, on_damage: Callable[[Damage], None], columns: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows of a part as far as they can be read."""
        count = 0
        try:
            with pq.ParquetFile(self.path / part.name) as file:
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                    _check_columns(batch, columns or _SCHEMA.names)
                    rows = batch.to_pylist()
                    yield from rows
                    count += len(rows)
        except FileNotFoundError:
            on_damage(Damage(part.name, f"is missing, with {counted(part.num_pictures, 'picture')}"))
        except (OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            lost = f"{part.num_pictures - count} of its {counted(part.num_pictures, 'picture')} cannot be read"
            on_damage(Damage(part.name, f"{lost} ({reason})"))
        else:
            if count != part.num_pictures:
                on_damage(Damage(part.name, f"holds {counted(count, 'picture')} instead of {part.num_pictures}"))

    def _write_index(self) -> None:
        stored: dict[str, Any] = {
            "settings": self.settings.as_json(),
            "parts": [list(part) for part in self.parts],
        }
        _KIND.write(self.path / "archive.json", stored)


def open_archive(path: Path | str) -> Archive:
    """The archive at `path`: its entries, settings and sizes. Raises DataError where there is none, or it is damaged.

    >>> import vae_ldm
    >>> archive = vae_ldm.open_archive("claims.archive")
    >>> ids = [entry.id for entry in archive.entries(print)]
    """
    return Archive.open(expanded(path))


def check_place(path: Path) -> None:
    """Raise DataError where `path` is a folder with anything else in it than an archive."""
    if not path.is_dir() or (path / "archive.json").is_file():
        return
    strangers = sorted(file.name for file in path.iterdir() if not _may_be_left_over(file.name))
    if strangers:
        raise DataError(f"{path}: is no archive and not empty (it holds {strangers[0]}); name a new folder")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the archive at `path`, whose folder is made where it is missing. The lock dies with the process.

    Raises RunError where another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with locked_file(path / "lock", f"{path}: another process is writing to this archive"):
        remove_abandoned(path)
        yield


def _ignore(damage: Damage) -> None:
    pass


def _check_columns(batch: pa.RecordBatch, names: Sequence[str]) -> None:
    """Raise ValueError where a damaged file has other columns than those that were written."""
    for name in names:
        wanted = _SCHEMA.field(name)
        if name not in batch.schema.names or batch.schema.field(name).type != wanted.type:
            raise ValueError(f"its column {name} is not as it was written")
        if batch.column(name).null_count and not wanted.nullable:
            raise ValueError(f"its column {name} has gaps")


def _may_be_left_over(name: str) -> bool:
    """Whether a file of this name may come from an `add` that was stopped before there was an archive."""
    return name == "lock" or name.endswith(".part") or (name.startswith("part-") and name.endswith(".parquet"))


def _number(part: Part) -> int:
    """The number of a part, in the order in which parts were written."""
    named = _PART.fullmatch(part.name)
    assert named, part.name
    return int(named[1])


def _check_format_1(file: Path, stored: dict[str, Any]) -> None:
    """Raise DataError where archive.json of version 0.1.0 is of another version than 1, or its checksum is another."""
    if stored.get("version") != 1:
        raise DataError(f"{file}: is of version {stored.get('version')}, which no vae_ldm has written")
    content = {name: value for name, value in stored.items() if name not in ("format", "version", "checksum")}
    if stored.get("checksum") != hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest():
        raise _KIND.damaged(file, "its checksum is another")
