"""Where a recipe's files lie, whatever folder one stands in."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from vae_ldm.errors import RecipeError
from vae_ldm.recipe import Recipe
from vae_ldm.recipe.parts import PATTERNS, RUN_NAME, Part, place_kind

P = TypeVar("P", bound=Part)


def placed(recipe: Recipe, *, kept: bool = False) -> Recipe:
    """The recipe with the full path of every file and folder of this machine that it names; `~` is the home folder.

    A run keeps it so: `evaluate`, `augment` and `train RUN/recipe.yaml` mean the same from anywhere. `kept` is for a
    recipe that a run has kept; see `PlaceKind.is_path`.
    """
    return _placed(recipe, kept).model_copy(update={"output_dir": _full(recipe.output_dir)})


def at_its_place(recipe: Recipe, file: Path, overrides: Sequence[str], say: Callable[[str], None]) -> Recipe:
    """The recipe with the run folder that its `file` lies in, where that is a run which was moved; `say` is told so.

    A run keeps the full path of its output_dir: without this, `train MOVED/recipe.yaml` would begin anew in the old
    place. A recipe whose name or output_dir is overridden is left as it is. Raises RecipeError where the folder's name
    cannot be that of a run.
    """
    folder = file.absolute().parent
    is_run = file.name == "recipe.yaml" and any((folder / name).is_file() for name in ("state.json", "lock"))
    chosen = {override.partition("=")[0].strip() for override in overrides} & {"name", "output_dir"}
    if not is_run or chosen or recipe.run_folder.resolve() == folder.resolve():
        return recipe
    if re.fullmatch(RUN_NAME, folder.name) is None:
        raise RecipeError(f"{folder}: the name of a run {PATTERNS[RUN_NAME]}; rename the folder to go on with it")
    say(f"{folder}: the run was in {recipe.run_folder} before; it goes on where it lies now")
    return recipe.model_copy(update={"name": folder.name, "output_dir": str(folder.parent)})


def _placed(part: P, kept: bool) -> P:
    updates: dict[str, object] = {}
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        if isinstance(value, Part):
            updates[key] = _placed(value, kept)
        elif isinstance(value, tuple):
            updates[key] = tuple(_placed(item, kept) if isinstance(item, Part) else item for item in value)
        elif isinstance(value, str) and (kind := place_kind(field)) is not None and kind.is_path(value, kept=kept):
            updates[key] = _full(value)
    return part.model_copy(update=updates)


def _full(path: str) -> str:
    with suppress(RuntimeError):  # ~somebody who has no home
        return str(Path(path).expanduser().absolute())
    return path
