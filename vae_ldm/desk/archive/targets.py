"""Chooses the file that each photo of an archive is extracted to; no two photos share one."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from vae_ldm.choices import FileFormat
from vae_ldm.desk.file_names import lengthened

_SAME = {".jpg": ".jpeg"}


def target_names(methods: Mapping[str, str], file_format: FileFormat) -> dict[str, str | None]:
    """The path below a folder for each id of an archive, given the method that its photo is kept by.

    The id itself, with the suffix of the file's format after it where it has another. No two photos get one file: a
    name that is another photo's id takes the suffix once more (of `1.jpg` and `1.jpg.png`, both written as PNG, the
    first becomes `1.jpg.png.png`). Names of more than 255 bytes are cut. None where the file would lie outside.
    """
    names: dict[str, str | None] = {}
    taken: set[str] = set()
    for photo_id, method in methods.items():
        name = PurePosixPath(photo_id)
        if name.is_absolute() or ".." in name.parts or not name.parts or "\0" in photo_id:
            names[photo_id] = None
            continue
        folder = PurePosixPath(*(lengthened(part) for part in name.parts[:-1]))
        for candidate in _candidates(name.name, _suffix(name.suffix, method, file_format)):
            found = str(folder / candidate)
            if found == photo_id or (found not in methods and found not in taken):
                taken.add(found)
                names[photo_id] = found
                break
    return names


def target_file(out: Path, name: str | None) -> Path | None:
    """The file below `out`, or None where a link would lead it outside."""
    if name is None:
        return None
    target = out / name
    return target if target.parent.resolve().is_relative_to(out.resolve()) else None


def _candidates(name: str, suffix: str) -> Iterator[str]:
    """Names for a file of the format with this suffix, the nearest to the photo's own first."""
    own = PurePosixPath(name).suffix.lower()
    if _SAME.get(own, own) == _SAME.get(suffix.lower(), suffix.lower()):
        yield lengthened(name)
    longer = suffix
    while True:
        yield lengthened(name, longer)
        longer += suffix or "~"


def _suffix(own: str, method: str, file_format: FileFormat) -> str:
    if file_format != "own":
        return f".{file_format}"
    if method == "file":
        return own
    return ".png" if method == "latents" else f".{method}"
