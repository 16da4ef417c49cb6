"""What lies in a folder of photos: each file is listed, or left out with a reason."""

import difflib
import errno
import hashlib
import logging
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vae_ldm.data.names import as_text
from vae_ldm.errors import DataError
from vae_ldm.text import shown

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

HIDDEN = "its name begins with a dot"
NOT_A_PHOTO = "not a photo"
_UNTOLD = frozenset({HIDDEN, NOT_A_PHOTO})

_SYSTEM_FOLDERS = frozenset(
    {"@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"}
)
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jp2"}
    | {".pbm", ".pgm", ".pnm", ".ppm", ".tga"}
)
"""File names that are taken for pictures in a folder."""
_FOREIGN_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".psd", ".xcf", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srw"}
    | {".orf", ".rw2", ".raf", ".pef", ".raw", ".3fr", ".iiq"}
)
"""Photos of formats that Pillow does not decode."""
_MOST_NAMES = 1000
"""Most paths that lead to one folder through links; links among folders could otherwise give countless paths."""

_LEADS_NOWHERE = (errno.ENOENT, errno.ELOOP)
"""Errors of a link behind which there is nothing."""

_log = logging.getLogger(__name__)
_told: set[tuple[Path, str]] = set()
"""Folders, and the lines that were told of them."""


class PhotosMissingError(DataError):
    """The folder of photos is not there, or holds none: a disk that is not mounted, a folder that was moved."""


@dataclass(frozen=True)
class Listing:
    """Every file below a folder, by its path relative to the folder."""

    files: dict[str, os.stat_result]
    """Regular files, also those that links lead to, sorted by name."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Names of what is not looked at, by the reason; the name of a folder stands for all that lies in it."""
    unreadable: list[str] = field(default_factory=list)
    """Those of them that the system does not let be looked at: nobody knows how many photos lie there."""


@dataclass(frozen=True)
class PhotoFiles:
    """The photos and metadata files below a folder; all other files are in `left_out`."""

    folder: Path
    files: dict[str, os.stat_result]
    pictures: list[str]
    metadata: list[str]
    left_out: dict[str, list[str]]
    """Names by the reason, as in Listing."""
    unreadable: list[str] = field(default_factory=list)
    """As in Listing."""

    def leave_out(self, reason: str, names: Iterable[str]) -> None:
        """Add names to `left_out`."""
        if names := list(names):
            self.left_out.setdefault(reason, []).extend(names)

    def lines(self) -> list[str]:
        """One line a reason: `left out NAME and 3 more: reason`; of hidden files and of what is no photo, none."""
        return [f"left out {_some(names)}: {why}" for why, names in self.left_out.items() if why not in _UNTOLD]


def find_photos(folder: Path) -> PhotoFiles:
    """The photos below a folder, of any layout. Raises PhotosMissingError where there are none."""
    listing = list_folder(folder)
    pictures, metadata, left_out = [], [], dict(listing.left_out)
    for name in listing.files:
        suffix = posixpath.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            pictures.append(name)
        elif posixpath.basename(name) in METADATA_NAMES:
            metadata.append(name)
        else:
            foreign = f"{suffix} files are not read; convert them to JPEG or PNG"
            left_out.setdefault(foreign if suffix in _FOREIGN_SUFFIXES else NOT_A_PHOTO, []).append(name)
    found = PhotoFiles(folder, listing.files, pictures, metadata, left_out, listing.unreadable)
    if not pictures:
        raise PhotosMissingError(f"no photos in {folder}: {_what_else(found)}")
    return found


def list_folder(folder: Path) -> Listing:
    """Every file below a folder. Links are followed; what cannot be looked at is left out with a reason.

    Raises OSError where the folder itself cannot be read, DataError where links go round among its folders.
    """
    left_out: dict[str, list[str]] = {}
    unreadable: list[str] = []
    status = folder.stat()
    files = dict(sorted(_walk(folder, "", (_identity(status),), Counter(), left_out, unreadable)))
    return Listing(files, left_out, unreadable)


_Identity = tuple[int, int]


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _walk(
    folder: str | Path,
    prefix: str,
    way_down: tuple[_Identity, ...],
    num_names: Counter[_Identity],
    left_out: dict[str, list[str]],
    unreadable: list[str],
) -> Iterator[tuple[str, os.stat_result]]:
    """Files below `folder`, which is reached through the folders of `way_down`, itself the last."""

    def leave_out(name: str, reason: str) -> None:
        left_out.setdefault(reason, []).append(name)

    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        name = prefix + entry.name
        if entry.name.startswith(".") and entry.name not in _SYSTEM_FOLDERS:
            leave_out(name, HIDDEN)
            continue
        if entry.name in _SYSTEM_FOLDERS or entry.name.startswith("__MACOSX"):
            leave_out(name, "a folder of the system's own")
            continue
        try:
            status = entry.stat()
        except OSError as error:
            leave_out(name, _why_not(error))
            if error.errno not in _LEADS_NOWHERE:
                unreadable.append(name)
            continue
        if stat.S_ISREG(status.st_mode):
            yield name, status
        elif not stat.S_ISDIR(status.st_mode):
            leave_out(name, "not a regular file")
        elif (identity := _identity(status)) in way_down:
            leave_out(name, "a link to a folder that it lies in")
        else:
            num_names[identity] += 1
            if num_names[identity] > _MOST_NAMES:
                raise DataError(f"{shown(entry.path)}: links lead to this folder in more than {_MOST_NAMES:,} ways")
            try:
                yield from _walk(entry.path, f"{name}/", (*way_down, identity), num_names, left_out, unreadable)
            except OSError as error:  # it may not be read, or its path is too long for the system
                leave_out(name, _why_not(error))
                unreadable.append(name)


def _why_not(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "a link to nothing"
        case errno.ELOOP:
            return "a link that leads back to itself"
        case _:
            return error.strerror or type(error).__name__


def tell(lines: Iterable[str]) -> None:
    """Print what the user should know of a folder of photos: a warning for each line."""
    for line in lines:
        _log.warning("%s", line)


def tell_left_out(found: PhotoFiles) -> None:
    """`tell` what is left out of a folder, each line once in a process: a command may list its photos several times."""
    lines = {(found.folder, line): line for line in found.lines()}
    tell(line for key, line in lines.items() if key not in _told)
    _told.update(lines)


def existing_folder(path: str | Path) -> Path:
    """The path, when it is a folder; otherwise a DataError that names what comes nearest to it."""
    try:
        path = Path(path).expanduser()
    except RuntimeError:  # ~NAME, and there is no such user
        raise PhotosMissingError(f"{path}: there is no user {Path(path).parts[0][1:]}") from None
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{path}: is a file; give the folder that holds the photos")
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    siblings = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    nearest = difflib.get_close_matches(missing.name, siblings, n=1)
    if nearest:
        hint = f"; did you mean {missing.parent / nearest[0]}?"
    else:  # of a path that lacks its last part alone, nothing is left to be said
        hint = "" if missing == path else f"; there is no {missing} either"
    what = "photo" if path.suffix.lower() in SUFFIXES else "folder"
    raise PhotosMissingError(f"{path}: no such {what}{hint}")


def fingerprint(files: Mapping[str, os.stat_result]) -> str:
    """A hash of names, sizes and times of change: it tells a changed folder without reading the pictures."""
    lines = (f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n" for name, status in files.items())
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"{shown(as_text(names[0]))}{more}"


def _what_else(found: PhotoFiles) -> str:
    """What a folder without pictures holds instead, in words."""
    suffixes = Counter(posixpath.splitext(name)[1].lower() or "unnamed" for name in found.files).most_common(3)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes)
    lines = found.lines()
    holds = f"it holds {kinds} files; photos end in .jpg, .png, .webp, .tif, .bmp or .gif" if suffixes else ""
    return "; ".join(part for part in (holds, *lines) if part) or "the folder is empty"
