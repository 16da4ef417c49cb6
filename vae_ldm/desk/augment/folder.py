"""The folder that `augment` fills: pictures that say what they are, and notes by which a killed call goes on."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vae_ldm.choices import How
from vae_ldm.data.image_folder import SPLIT_NAMES
from vae_ldm.errors import VaeLdmError
from vae_ldm.files import locked, safe_name, write_json, write_picture, write_whole
from vae_ldm.pages.image_grid import MODES
from vae_ldm.stored_json import StoredKind

_MAX_SLUG = 40
_FORMAT = 3  # raise it when the same settings come to give other pictures
_ROUND = StoredKind(
    newest=2, digest_from=2, unnumbered=1, cure="delete it, and its pictures are drawn again", error=VaeLdmError
)
"""The format of the note of a round. Version 0.1.0 wrote format 1, without a number and without a digest."""


class Method(NamedTuple):
    """One way to make a picture."""

    how: How
    strength: float | None = None
    """The share of the way to noise, for `vary`."""

    @property
    def name(self) -> str:
        """The method's name in file names and tables."""
        return self.how if self.strength is None else f"{self.how}-{self.strength:g}"


@dataclass(frozen=True)
class Round:
    """What came of one batch of candidates."""

    label: str
    method: str
    number: int
    drawn: int
    near_copies: int
    off_class: int
    """Pictures of another class that are no near copies."""
    rows: list[dict[str, Any]]
    """Rows of the metadata, one for each picture that was kept."""


class AugmentedFolder:
    """`<class>/<picture>.png`, `metadata.jsonl` with a row a picture, and `augment.json` with all settings and counts.

    Hidden beside them lie a file a round, written when its pictures are: what a call has to read to go on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = path / "augment.json"
        self.metadata = path / "metadata.jsonl"
        self._rounds = path / ".rounds"

    @contextmanager
    def opened(self, settings: dict[str, Any]) -> Iterator[None]:
        """Hold the folder, new or begun with the same settings.

        Raises VaeLdmError where it holds anything else, RunError where another process fills it.
        """
        self.check(settings)
        self._rounds.mkdir(parents=True, exist_ok=True)
        with locked(self._rounds / "lock", f"{self.path}: another process is filling it"):
            if not self.facts.exists():
                write_json(self.facts, {"format": _FORMAT, "settings": settings, "finished": False})
            yield

    def check(self, settings: dict[str, Any] | None = None) -> None:
        """Raise VaeLdmError where the folder can be neither begun nor gone on with, with these settings if any."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        known = read_facts(self.path)
        if known is None:
            if self.path.is_dir() and [entry.name for entry in self.path.iterdir()] == [self._rounds.name]:
                return  # killed before the first word was written
            raise VaeLdmError(f"{self.path}: exists and was not made by augment; name another folder with --out")
        if settings is None:
            return
        before = known["settings"]
        asked = json.loads(json.dumps(settings))
        changed = [key for key in asked if before.get(key) != asked[key]]
        # What is finished stays what it is; what an older version has begun would be neither its folder nor ours.
        is_ours = known["format"] == _FORMAT or (known["format"] < _FORMAT and known.get("finished"))
        if changed or not is_ours:
            shown = ", ".join(f"{key} was {before.get(key)}, not {asked[key]}" for key in changed) or "another version"
            raise VaeLdmError(f"{self.path}: begun with other settings ({shown}); name another folder with --out")

    def round(self, class_folder: str, method: Method, number: int) -> Round | None:
        """A round that is done; None where it is still to be drawn. Raises VaeLdmError where its note is damaged."""
        file = self._file_of_round(class_folder, method, number)
        if not file.exists():
            return None
        done = _ROUND.typed(file, Round, _ROUND.read(file))
        for row in done.rows:
            safe_name(row.get("file_name"), file, has_folders=True)
        return done

    def add(self, done: Round, class_folder: str, method: Method, pictures: Sequence[np.ndarray]) -> None:
        """Keep the pictures uint8 [H, W, C] of a round, its rows in the same order, and then the round itself."""
        for row, picture in zip(done.rows, pictures, strict=True):
            _save_picture(self.path / row["file_name"], picture, row)
        _ROUND.write(self._file_of_round(class_folder, method, done.number), asdict(done))

    def describe(self, rounds: Sequence[Round]) -> None:
        """Write metadata.jsonl for the pictures of these rounds."""
        rows = [json.dumps(row, ensure_ascii=False) + "\n" for done in rounds for row in done.rows]
        write_whole(self.metadata, "".join(rows))

    def finish(self, settings: dict[str, Any], **facts: Any) -> None:
        """Mark the folder as whole, with what is worth knowing of it."""
        write_json(self.facts, {"format": _FORMAT, "settings": settings, "finished": True, **facts})

    def _file_of_round(self, class_folder: str, method: Method, number: int) -> Path:
        return self._rounds / f"{class_folder}-{method.name}-{number:05d}.json"


def read_facts(folder: Path) -> dict[str, Any] | None:
    """augment.json of the folder; None where there is none. Raises VaeLdmError where it cannot be read."""
    file = folder / "augment.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise VaeLdmError(f"{file}: cannot be read ({error}); delete the folder, or name another") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("settings"), dict) or "format" not in facts:
        raise VaeLdmError(f"{file}: was not written by augment; delete it, or name another folder")
    return facts


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of metadata.jsonl by file name; none where there is no such file, or where it is not ours to read."""
    try:
        lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return {row["file_name"]: row for row in rows}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def slug(text: str) -> str:
    """`text` as a part of a file name: letters, digits, dots and dashes; it is not hidden and leads nowhere else."""
    safe = re.sub(r"[^\w.-]+", "_", text).strip("._-")[:_MAX_SLUG].strip("._-")
    return f"class-{safe}" if not safe or safe.lower() in SPLIT_NAMES else safe


def slugs(labels: Sequence[str]) -> dict[str, str]:
    """A folder name for each class, no two the same, not even on a disk that does not tell case."""
    names: dict[str, str] = {}
    for label in labels:
        name, number = slug(label), 2
        while name.casefold() in {other.casefold() for other in names.values()}:
            name, number = f"{slug(label)}-{number}", number + 1
        names[label] = name
    return names


def picture_name(folder: str, method: Method, source: str | None, seed: int) -> str:
    """The path of a picture in the folder, made of class, method, source photo and seed."""
    origin = "" if source is None else f"{slug(PurePosixPath(source).stem)}-"
    return f"{folder}/{folder}-{method.name}-{origin}s{seed:06d}.png"


def _save_picture(file: Path, picture: np.ndarray, row: dict[str, Any]) -> None:
    """A PNG whose own text says that it is synthetic, and how it was made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text("synthetic", "true")
    text.add_text("Software", "vae_ldm augment")
    text.add_itxt("provenance", json.dumps(row, ensure_ascii=False))
    channels = picture.shape[-1]
    write_picture(file, Image.fromarray(picture[..., 0] if channels == 1 else picture, MODES[channels]), pnginfo=text)
