"""Where pictures come from: what every source offers, and the source that draws its own."""

import difflib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vae_ldm.data import rendered_claims
from vae_ldm.data.decoding import Picture
from vae_ldm.errors import DataError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")


@dataclass(frozen=True)
class Record:
    """One picture, not yet decoded, and what its source says about it."""

    id: str
    picture: Picture
    label: str | None = None
    caption: str | None = None


class PictureSource(Protocol):
    """A finite, ordered list of records for each split, the same on every call."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def class_names(self) -> list[str] | None:
        """The classes in order where the source knows them in advance; None: those of its records, sorted."""

    def description(self) -> dict[str, Any]:
        """All that its pictures, labels and captions follow from, as JSON: equal descriptions, equal records."""

    def num_records(self, split: Split) -> int | None:
        """How many records a split has: 0 where there is no such split, None where only reading it would tell."""

    def records(self, split: Split) -> Iterator[Record]:
        """The records of a split, in the source's order."""


class RenderedClaimsSource:
    """Pictures drawn by `rendered_claims`, the classes in turn; the seeds of the two splits never meet."""

    name = "rendered_claims"
    class_names = list(rendered_claims.CLASS_NAMES)
    _FIRST_SEED: Mapping[Split, int] = {"train": 0, "validation": 2**32}

    def __init__(self, *, num_train: int, num_validation: int, image_size: tuple[int, int]) -> None:
        self._sizes: dict[Split, int] = {"train": num_train, "validation": num_validation}
        self._image_size = image_size

    def description(self) -> dict[str, Any]:
        # The code is part of what the pictures follow from: a new version of it must not meet old pictures.
        code = (file.read_bytes() for file in sorted(Path(rendered_claims.__file__).parent.glob("*.py")))
        return {"type": self.name, "sizes": self._sizes, "code": hashlib.sha256(b"".join(code)).hexdigest()}

    def num_records(self, split: Split) -> int:
        return self._sizes[split]

    def records(self, split: Split) -> Iterator[Record]:
        for number in range(self._sizes[split]):
            seed = self._FIRST_SEED[split] + number
            label = number % len(self.class_names)
            claim = rendered_claims.render_claim(seed, label=label, image_size=self._image_size)
            yield Record(str(seed), claim.image, self.class_names[claim.label], claim.caption)


def sort_class_names(labels: Iterable[str | None]) -> list[str]:
    """The distinct labels in order: by value where all are whole numbers, else by the alphabet."""
    names = sorted({label for label in labels if label is not None})
    return sorted(names, key=int) if all(name.lstrip("-").isdecimal() for name in names) else names


def existing_folder(path: str | Path) -> Path:
    """The path, when it is a folder; otherwise a DataError that names what comes nearest to it."""
    path = Path(path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{path} is a file; give the folder that holds the pictures")
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    siblings = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    nearest = difflib.get_close_matches(missing.name, siblings, n=1)
    hint = f"; did you mean {missing.parent / nearest[0]}?" if nearest else f": {missing.parent} has no {missing.name}"
    raise DataError(f"{path} does not exist{hint}")


def list_files(folder: Path) -> dict[str, os.stat_result]:
    """Every file below a folder, by its path relative to it, sorted; hidden files and folders are passed over."""
    return dict(sorted(_walk(folder, "", set())))


def _walk(folder: str | Path, prefix: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    here = Path(folder).stat()
    if (here.st_dev, here.st_ino) in visited:  # a link back up would lead round in circles
        return
    visited.add((here.st_dev, here.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith((".", "__MACOSX")):
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # a link to nothing
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(entry.path, f"{prefix}{entry.name}/", visited)
            else:
                yield prefix + entry.name, status


def fingerprint(files: Mapping[str, os.stat_result]) -> str:
    """A hash of names, sizes and times of change: it tells a changed folder without reading the pictures."""
    lines = (f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n" for name, status in files.items())
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()
