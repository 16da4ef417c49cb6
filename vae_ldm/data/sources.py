"""Where pictures come from: what every source offers, and the source that draws its own."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vae_ldm.choices import Detail
from vae_ldm.data import rendered_claims
from vae_ldm.data.decoding import Picture
from vae_ldm.data.names import as_text

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")

_WHOLE_NUMBER = re.compile(r"-?\d{1,1000}")  # of more digits Python makes no number


@dataclass(frozen=True)
class Record:
    """One picture, not yet decoded, and what its source says about it."""

    id: str
    """Valid Unicode; for a file, `names.as_text` of its path relative to the folder."""
    picture: Picture
    label: str | None = None
    caption: str | None = None

    @property
    def place(self) -> str:
        """What messages call it: its path as the user has given it, or its id where it is no file."""
        return as_text(str(self.picture)) if isinstance(self.picture, Path) else self.id


def photo_digest(record: Record) -> str | None:
    """SHA-256 of the photo's file; None where it cannot be read, or never was one."""
    if isinstance(record.picture, bytes):
        return hashlib.sha256(record.picture).hexdigest()
    if not isinstance(record.picture, Path):
        return None
    try:
        with record.picture.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


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

    def remarks(self) -> list[str]:
        """What the user should know of it, a line each: what is left out, and why there are no classes."""


class RenderedClaimsSource:
    """Pictures drawn by `rendered_claims`, the classes in turn; the seeds of the two splits never meet."""

    name = "rendered_claims"
    class_names = list(rendered_claims.CLASS_NAMES)
    _FIRST_SEED: Mapping[Split, int] = {"train": 0, "validation": 2**32}

    def __init__(
        self, *, num_train: int, num_validation: int, image_size: tuple[int, int], detail: Detail = "plain"
    ) -> None:
        self._sizes: dict[Split, int] = {"train": num_train, "validation": num_validation}
        self._image_size, self._detail = image_size, detail

    def description(self) -> dict[str, Any]:
        # The code is part of what the pictures follow from: a new version of it must not meet old pictures.
        # What lies in fine/ has no part in plain ones.
        files = "*.py" if self._detail == "plain" else "**/*.py"
        code = (file.read_bytes() for file in sorted(Path(rendered_claims.__file__).parent.glob(files)))
        digest = hashlib.sha256(b"".join(code)).hexdigest()
        return {"type": self.name, "detail": self._detail, "sizes": self._sizes, "code": digest}

    def num_records(self, split: Split) -> int:
        return self._sizes[split]

    def records(self, split: Split) -> Iterator[Record]:
        for number in range(self._sizes[split]):
            seed = self._FIRST_SEED[split] + number
            label = number % len(self.class_names)
            claim = rendered_claims.render_claim(seed, label=label, image_size=self._image_size, detail=self._detail)
            yield Record(str(seed), claim.image, self.class_names[claim.label], claim.caption)

    def remarks(self) -> list[str]:
        return []


def sort_class_names(labels: Iterable[str | None]) -> list[str]:
    """The distinct labels in order: by value where all are whole numbers, else by the alphabet."""
    names = sorted({label for label in labels if label is not None})
    return sorted(names, key=int) if all(_WHOLE_NUMBER.fullmatch(name) for name in names) else names
