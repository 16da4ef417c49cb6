"""What of a recipe travels to the Hub, and what of a stranger's recipe is obeyed: one closed list for both ways."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vae_ldm.recipe.document import KeyPath, key_path
from vae_ldm.recipe.parts import Part, place_kind
from vae_ldm.recipe.schema import Recipe
from vae_ldm.recipe.stages import STAGES

TRAVELLING = ("format", "name", "seed", "data", *(stage.name for stage in STAGES))
"""Sections that make a run repeatable. Where it was written, logged and pushed is for whoever runs it to decide."""
NOT_TRAVELLING = tuple(section for section in Recipe.model_fields if section not in TRAVELLING)
PLACEHOLDER = "./set-this"
"""Stands in a recipe that travels for a path that only its maker's machine has."""


class LocalPath(NamedTuple):
    """A setting that names a file or folder of some machine, and no repository of the Hub."""

    key: str
    """Dotted."""
    value: str


def portable(recipe: Recipe) -> Recipe:
    """The recipe of a run without paths of this machine, and with the defaults for what does not travel."""
    defaults = {section: Recipe.model_fields[section].get_default() for section in NOT_TRAVELLING}
    travelling = recipe.model_copy(update=defaults)
    for path in _travelling_paths(travelling, kept=True):
        travelling = _replaced(travelling, key_path(path.key), PLACEHOLDER)
    return travelling


def local_paths(part: Part, prefix: str = "", *, kept: bool = False) -> Iterator[LocalPath]:
    """Every setting of the part that names a file or folder. Which word is a path depends on what lies here.

    `kept` is for the recipe that a run has kept; see `PlaceKind.is_path`.
    """
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        if isinstance(value, Part):
            yield from local_paths(value, f"{prefix}{key}.", kept=kept)
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                if isinstance(item, Part):
                    yield from local_paths(item, f"{prefix}{key}[{number}].", kept=kept)
        elif isinstance(value, str) and (kind := place_kind(field)) is not None and kind.is_path(value, kept=kept):
            yield LocalPath(f"{prefix}{key}", value)


def decided_by_a_stranger(recipe: Recipe, overrides: Sequence[str]) -> Iterator[str]:
    """Dotted keys that a recipe from the Hub must not decide and that no override has set."""
    keys = [section for section in NOT_TRAVELLING if getattr(recipe, section) != Recipe.model_fields[section].default]
    keys += [path.key for path in _travelling_paths(recipe)]
    mine = [key_path(override.partition("=")[0].strip()) for override in overrides]
    return (key for key in keys if not any(key_path(key)[: len(own)] == own for own in mine))


def _travelling_paths(recipe: Recipe, *, kept: bool = False) -> list[LocalPath]:
    return [path for path in local_paths(recipe, kept=kept) if path.key.partition(".")[0] in TRAVELLING]


def _replaced(part: Any, path: KeyPath, value: str) -> Any:
    """A copy of a part, or of a list of parts, with the value at the path."""
    key, *rest = path
    below = tuple(rest)
    if isinstance(key, int):
        return (*part[:key], _replaced(part[key], below, value), *part[key + 1 :])
    new = _replaced(getattr(part, key), below, value) if below else value
    return part.model_copy(update={key: new})
