"""Paths are looked at while the command line is parsed, before a verb imports torch: a wrong one is told at once.

Each function serves as the callback of an argument or option: it returns the path with `~` replaced, which a shell
leaves in --out=~/x and between quotes, or raises VaeLdmError.
"""

from collections.abc import Callable
from pathlib import Path

from vae_ldm.data.listing import existing_folder, find_photos
from vae_ldm.errors import DataError
from vae_ldm.paths import (
    PAGE_SUFFIXES,
    SHEET_SUFFIXES,
    TABLE_SUFFIXES,
    check_archive_place,
    check_backbone,
    check_desk_place,
    check_detector_place,
    check_index_place,
    check_model,
    check_new_folder,
    check_output_file,
    check_output_folder,
    check_run,
    check_store,
    check_weights_within,
    expanded,
    is_folder_or_file,
)


def photos(path: Path | None) -> Path | None:
    """A folder of photos, or one photo."""
    if path is None:
        return None
    place = expanded(path)
    if place.is_file():
        return place
    _check_no_device(path)
    return existing_folder(path)


def photo(path: Path) -> Path:
    """One photo."""
    place = expanded(path)
    if not place.is_file():
        _check_no_device(path)
        raise DataError(f"{path}: {'is a folder; give one photo' if place.is_dir() else 'no such photo'}")
    return place


def one_photo(path: Path) -> Path:
    """One photo, or a folder that holds no more than one."""
    place = photos(path)
    assert place is not None
    if place.is_dir() and (count := len(find_photos(place).pictures)) > 1:
        raise DataError(f"{path}: holds {count:,} photos; give one of them")
    return place


def _check_no_device(path: Path) -> None:
    place = expanded(path)
    if place.exists() and not is_folder_or_file(place):
        raise DataError(f"{path}: is not a regular file; give a photo")


def text_file(path: Path | None) -> Path | None:
    """A text file that exists."""
    if path is None:
        return None
    place = expanded(path)
    if not place.is_file():
        raise DataError(f"{path}: {'is a folder; give a text file' if place.is_dir() else 'no such file'}")
    return place


def some_photos(paths: list[Path] | None) -> list[Path] | None:
    """Photos, each a file."""
    return None if paths is None else [photo(path) for path in paths]


def share_or_photos(text: str | None) -> str | None:
    """A share such as 0.3, or a folder of photos."""
    if text is None:
        return None
    try:
        float(text)
    except ValueError:
        place = expanded(text)
        if not place.exists():
            raise DataError(f"{text}: is neither a share such as 0.3 nor a folder of photos") from None
        return str(place)
    return text


def model(source: str | None) -> str | None:
    """A run, a folder of weights, ORG/NAME of the Hub, or the starter."""
    return None if source is None else models([source])[0]


def models(sources: list[str] | None) -> list[str]:
    """Several of them."""
    sources = sources or []
    for source in sources:
        check_model(source)
        check_weights_within(source)
    return [_home(source) for source in sources]


def pipeline(source: str) -> str:
    """A run that is finished, a pipeline's folder, or ORG/NAME of the Hub."""
    check_model(source)
    check_weights_within(source, "pipeline")
    return _home(source)


def backbone(source: str | None) -> str | None:
    """One of EfficientNetName, a vision model's folder, or ORG/NAME of the Hub."""
    if source is None:
        return None
    check_backbone(source)
    return _home(source)


def _home(source: str) -> str:
    """The source, which may be of the Hub, with `~` replaced; any other is left as it was written."""
    return str(expanded(source)) if source.startswith("~") else source


def run(folder: Path) -> Path:
    """A folder that train has made."""
    check_run(expanded(folder))
    return expanded(folder)


def trained_run(folder: Path) -> Path:
    """A run whose stages are all trained."""
    from vae_ldm.recipe import read_recipe
    from vae_ldm.run.state import check_trained

    found = run(folder)
    check_trained(found, read_recipe(found / "recipe.yaml", as_trained=True))
    return found


def archive(folder: Path) -> Path:
    """An archive that exists."""
    check_store(expanded(folder), "archive.json", "archive", "archive add")
    return expanded(folder)


def archive_place(folder: Path) -> Path:
    """An archive, or a folder to make one in."""
    check_archive_place(expanded(folder))
    return expanded(folder)


def index(folder: Path | str) -> Path:
    """An index that exists."""
    check_store(expanded(folder), "index.json", "index", "index build")
    return expanded(folder)


def index_place(folder: Path | str) -> Path:
    """An index, or a folder to make one in."""
    check_index_place(expanded(folder))
    return expanded(folder)


def detector(folder: Path) -> Path:
    """A detector that exists."""
    check_store(expanded(folder), "detector.json", "detector", "novelty fit")
    return expanded(folder)


def detector_place(folder: Path) -> Path:
    """A detector, or a folder to make one in."""
    check_detector_place(expanded(folder))
    return expanded(folder)


def desk_place(folder: Path) -> Path:
    """A desk, or a folder to make one in."""
    check_desk_place(expanded(folder))
    return expanded(folder)


def desk(folder: Path) -> Path:
    """A desk that exists."""
    for part in ("novelty", "index"):
        check_store(expanded(folder), part, "desk", f"desk {folder} PHOTOS")
    return expanded(folder)


def _output_file(what: str, suffixes: tuple[str, ...]) -> Callable[[Path | None], Path | None]:
    def check(file: Path | None) -> Path | None:
        if file is None:
            return None
        check_output_file(expanded(file), what, suffixes)
        return expanded(file)

    return check


page = _output_file("page", PAGE_SUFFIXES)
sheet = _output_file("sheet", SHEET_SUFFIXES)
table = _output_file("table", TABLE_SUFFIXES)


def output_folder(folder: Path) -> Path:
    """A folder that files can be written to."""
    check_output_folder(expanded(folder))
    return expanded(folder)


def existing(folder: Path) -> Path:
    """A folder that exists."""
    return existing_folder(folder)


def any_path(path: Path | None) -> Path | None:
    """A path that the command itself looks at."""
    return None if path is None else expanded(path)


def new_folder(folder: Path | None) -> Path | None:
    """A folder that is empty or does not exist."""
    if folder is None:
        return None
    check_new_folder(expanded(folder))
    return expanded(folder)


def heat_map_folder(folder: Path | None) -> Path | None:
    """The same, where --heat-maps names it."""
    if folder is None:
        return None
    check_new_folder(expanded(folder), "--heat-maps")
    return expanded(folder)
