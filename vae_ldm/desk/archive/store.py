"""An archive: Parquet parts, and archive.json, which holds the settings and names the parts that count.

Beside each part archive.json holds its digest.
A process that is killed leaves at most a part that is not named there, which the next one writes over.

archive.json is of format 2. Version 0.1.0 wrote format 1, in which `format` is a text and `downsample_factor` is not
stored; it is read as it was meant, and becomes format 2 when photos are added.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from vae_ldm.choices import Preference
from vae_ldm.desk.archive.part import PART_NAME, ArchivePart, Damage, Entry, write_part
from vae_ldm.errors import DataError
from vae_ldm.files import locked, remove_abandoned, safe_name
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.paths import check_archive_place, expanded
from vae_ldm.stored_json import StoredKind

_KIND = StoredKind(newest=2, digest_from=2, cure="bring it back from a copy", error=DataError)
_FORMAT_1 = "vae_ldm archive"


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
    parts: list[ArchivePart]


class Archive:
    """An archive that exists. Reading needs no lock; `append` is for the one who holds `locked_archive`."""

    def __init__(self, path: Path, settings: Settings, parts: Sequence[ArchivePart] = ()) -> None:
        self.path, self.settings = path, settings
        self.parts = list(parts)

    @classmethod
    def create(cls, path: Path, settings: Settings) -> Self:
        """An empty one in a folder that exists. Raises DataError where the folder holds anything else."""
        check_archive_place(path)
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
            if not PART_NAME.fullmatch(safe_name(part.name, file)):
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
            if part.is_whole(self.path):
                continue
            on_damage(Damage(part.name, "is damaged (its digest is another)"))
            whole = list(part.entries(self.path, on_damage))
            place = self.parts.index(part)
            self._replace_parts(
                [*self.parts[:place], *([self._written(whole)] if whole else []), *self.parts[place + 1 :]]
            )
            (self.path / part.name).unlink(missing_ok=True)

    def _written(self, entries: Sequence[Entry]) -> ArchivePart:
        """A new part of these pictures, which no index names yet."""
        return write_part(self.path, 1 + max((part.number for part in self.parts), default=-1), entries)

    def _replace_parts(self, parts: Sequence[ArchivePart]) -> None:
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
            if part.is_whole(self.path):
                found |= {row["id"]: row["content"] for row in part.rows(self.path, on_damage, ["id", "content"])}
                continue
            on_damage(Damage(part.name, "is damaged (its digest is another)"))
            for entry in part.entries(self.path, on_damage):
                found[entry.id] = entry.content
        return found

    def methods(self) -> dict[str, str]:
        """How each picture is kept, by id, of its newest row as far as that can be read."""
        return {
            row["id"]: row["method"] for part in self.parts for row in part.rows(self.path, _ignore, ["id", "method"])
        }

    def entries(self, on_damage: Callable[[Damage], None]) -> Iterator[Entry]:
        """Every picture's newest row, some at a time in memory; what is damaged is told and passed over."""
        newest = {row["id"]: part for part in self.parts for row in part.rows(self.path, _ignore, ["id"])}
        for part in self.parts:
            yield from part.entries(self.path, on_damage, newest)

    def check_files(self) -> Iterator[Damage]:
        """Every part that is missing, or of which a byte has changed."""
        for part in self.parts:
            if not part.is_whole(self.path):
                missing = not (self.path / part.name).is_file()
                yield Damage(part.name, "is missing" if missing else "is damaged (its digest is another)")

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


@contextmanager
def locked_archive(path: Path) -> Iterator[None]:
    """Hold the archive at `path`, whose folder is made where it is missing. The lock dies with the process.

    Raises RunError where another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / "lock", f"{path}: another process is writing to this archive"):
        remove_abandoned(path)
        yield


def _ignore(damage: Damage) -> None:
    pass


def _check_format_1(file: Path, stored: dict[str, Any]) -> None:
    """Raise DataError where archive.json of version 0.1.0 is of another version than 1, or its checksum is another."""
    if stored.get("version") != 1:
        raise DataError(f"{file}: is of version {stored.get('version')}, which no vae_ldm has written")
    content = {name: value for name, value in stored.items() if name not in ("format", "version", "checksum")}
    if stored.get("checksum") != hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest():
        raise _KIND.damaged(file, "its checksum is another")
