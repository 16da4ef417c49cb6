"""Where a recipe's files lie, whatever folder one stands in."""

from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from vae_ldm.recipe import Recipe
from vae_ldm.recipe.parts import Part, place_kind

P = TypeVar("P", bound=Part)


def placed(recipe: Recipe) -> Recipe:
    """The recipe with the full path of every file and folder of this machine that it names; `~` is the home folder.

    A run keeps it so: `evaluate`, `augment` and `train RUN/recipe.yaml` mean the same from anywhere.
    """
    return _placed(recipe).model_copy(update={"output_dir": _full(recipe.output_dir)})


def _placed(part: P) -> P:
    updates: dict[str, object] = {}
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        if isinstance(value, Part):
            updates[key] = _placed(value)
        elif isinstance(value, str) and (kind := place_kind(field)) is not None and not kind.is_of_the_hub(value):
            updates[key] = _full(value)
    return part.model_copy(update=updates)


def _full(path: str) -> str:
    with suppress(RuntimeError):  # ~somebody who has no home
        return str(Path(path).expanduser().absolute())
    return path
