"""Paths are looked at while the command line is parsed, before a verb imports torch: a wrong one is told at once.

Each function serves as the callback of an argument or option: it returns the value, or raises VaeLdmError.
"""

from collections.abc import Callable
from pathlib import Path

from vae_ldm.data.listing import existing_folder
from vae_ldm.errors import DataError, WeightsError
from vae_ldm.paths import (
    PAGE_SUFFIXES,
    SHEET_SUFFIXES,
    TABLE_SUFFIXES,
    check_model,
    check_new_folder,
    check_output_file,
    check_output_folder,
    check_run,
    check_store,
    expanded,
    is_folder_or_file,
    is_local,
)


def photos(path: Path | None) -> Path | None:
    """A folder of photos, or one photo."""
    if path is not None and not expanded(path).is_file():
        _check_no_device(path)
        existing_folder(path)
    return path


def photo(path: Path) -> Path:
    """One photo."""
    place = expanded(path)
    if not place.is_file():
        _check_no_device(path)
        raise DataError(f"{path}: {'is a folder; give one photo' if place.is_dir() else 'no such photo'}")
    return path


def _check_no_device(path: Path) -> None:
    place = expanded(path)
    if place.exists() and not is_folder_or_file(place):
        raise DataError(f"{path}: is no regular file; give a photo")


def some_photos(paths: list[Path] | None) -> list[Path] | None:
    """Photos, each a file."""
    return None if paths is None else [photo(path) for path in paths]


def share_or_photos(text: str | None) -> str | None:
    """A share such as 0.3, or a folder of photos."""
    try:
        float(text or 0)
    except ValueError:
        if not expanded(str(text)).exists():
            raise DataError(f"{text}: is neither a share such as 0.3 nor a folder of photos") from None
    return text


def model(source: str | None) -> str | None:
    """A run, a folder of weights, or ORG/NAME of the Hub."""
    if source is not None:
        check_model(source)
    return source


def models(sources: list[str]) -> list[str]:
    """Several of them."""
    for source in sources:
        check_model(source)
    return sources


def backbone(source: str | None) -> str | None:
    """A vision model's folder, or ORG/NAME of the Hub."""
    if source is not None and is_local(source) and not is_folder_or_file(expanded(source)):
        raise WeightsError(f"{source}: no such folder; give a folder made by save_pretrained, or ORG/NAME of the Hub")
    return source


def run(folder: Path) -> Path:
    """A folder that train has made."""
    check_run(folder)
    return folder


def archive(folder: Path) -> Path:
    """An archive that exists."""
    check_store(folder, "archive.json", "archive", "archive add")
    return folder


def index(folder: Path | str) -> None:
    """An index that exists."""
    check_store(expanded(folder), "index.json", "index", "index build")


def detector(folder: Path) -> Path:
    """A detector that exists."""
    check_store(expanded(folder), "detector.json", "detector", "novelty fit")
    return folder


def desk(folder: Path) -> Path:
    """A desk that exists."""
    for part in ("novelty", "index"):
        check_store(expanded(folder), part, "desk", f"desk {folder} PHOTOS --model RUN")
    return folder


def _output_file(what: str, suffixes: tuple[str, ...]) -> Callable[[Path | None], Path | None]:
    def check(file: Path | None) -> Path | None:
        if file is not None:
            check_output_file(file, what, suffixes)
        return file

    return check


page = _output_file("page", PAGE_SUFFIXES)
sheet = _output_file("sheet", SHEET_SUFFIXES)
table = _output_file("table", TABLE_SUFFIXES)


def output_folder(folder: Path | None) -> Path | None:
    """A folder that files can be written to."""
    if folder is not None:
        check_output_folder(folder)
    return folder


def new_folder(folder: Path | None) -> Path | None:
    """A folder that is empty or does not exist."""
    if folder is not None:
        check_new_folder(folder)
    return folder


def free_folder(folder: Path) -> Path:
    """`folder`, or where it is taken the first of `folder`-2, `folder`-3, ... that is free."""
    number, place = 1, folder
    while place.exists() and (not place.is_dir() or any(place.iterdir())):
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    check_output_folder(place)
    return place
