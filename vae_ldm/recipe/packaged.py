"""The recipes that come with the package, found by name."""

from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from vae_ldm.errors import RecipeError
from vae_ldm.paths import expanded

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
"""Inside an installed package; beside it in a checkout. One folder in the repository is the source of both."""


def packaged_recipes() -> dict[str, Path]:
    """The packaged recipes by name (the path below recipes/ without .yaml), in order of their names."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    if folder is None:
        return {}
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_recipe(name_or_path: str) -> Path:
    """The file that is meant: a path to one, else a packaged recipe by its name, with or without .yaml.

    Raises RecipeError that lists the packaged names.
    """
    place = expanded(name_or_path)
    return place if place.exists() else _packaged(name_or_path, "no such file, and no packaged recipe of this name")


def packaged_recipe(name: str) -> Path:
    """The packaged recipe of this name, with or without .yaml. Raises RecipeError that lists the packaged names."""
    return _packaged(name, "no packaged recipe has this name")


def _packaged(name_or_path: str, otherwise: str) -> Path:
    packaged = packaged_recipes()
    name = name_or_path.removesuffix(".yaml").removesuffix(".yml")
    if name in packaged:
        return packaged[name]
    near = get_close_matches(name.rpartition("/")[2], packaged, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise RecipeError(f"{name_or_path}: {otherwise}{hint}; there are {', '.join(packaged) or 'none'}")


def first_comment(path: Path) -> list[str]:
    """The lines of the comment that a recipe opens with, without their marks."""
    comment = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return [line.removeprefix("#").strip() for line in comment]
