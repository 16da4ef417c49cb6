"""From a recipe file and overrides to a checked Recipe, or to every mistake at once."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import takewhile
from pathlib import Path

from pydantic import ValidationError

from vae_ldm.errors import RecipeError
from vae_ldm.recipe.document import KeyPath, Mistake, Node, parse_file
from vae_ldm.recipe.mistakes import disagreements, explain, locate, misspelt_types
from vae_ldm.recipe.overrides import apply_overrides
from vae_ldm.recipe.schema import Recipe


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file at `path` under `overrides` (`key.sub=value`, the value in YAML).

    Raises RecipeError with all mistakes, each on a line of its own that names the file's line or the override.
    """
    root, mistakes = parse_file(path)
    mistakes += apply_overrides(root, overrides)
    unread = {mistake.path for mistake in mistakes if root.nearest(mistake.path).value is None}  # such as an alias
    try:
        recipe = Recipe.model_validate(root.plain())
    except ValidationError as error:
        wrong = explain(error, root)
        wrong += _under_misspelt_types(error, root, {mistake.path for mistake in wrong})
        mistakes += [mistake for mistake in wrong if mistake.path not in unread]
        mistakes += _disagreements_of_the_rest(root, frozenset(_key(mistake.path) for mistake in wrong))
    if mistakes:
        raise RecipeError("\n".join(map(str, sorted(mistakes, key=lambda mistake: mistake.origin.order))))
    return recipe


def _under_misspelt_types(error: ValidationError, root: Node, known: set[KeyPath]) -> list[Mistake]:
    """What else is written wrong in parts of an unknown type, taken for the nearest: pydantic stops at the type."""
    corrected = deepcopy(root)
    for path, nearest in misspelt_types(error):
        corrected.nearest(path).value = nearest
    try:
        Recipe.model_validate(corrected.plain())
    except ValidationError as rest:
        found = explain(rest, corrected)
        return [mistake for mistake in found if mistake.path not in known and root.find(mistake.path) is not None]
    return []


def _disagreements_of_the_rest(root: Node, wrong: frozenset[KeyPath]) -> list[Mistake]:
    """Settings that cannot work together, which pydantic looks at only once each is right by itself."""
    try:
        Recipe.model_validate(root.plain(without=wrong))
    except ValidationError as error:
        return [
            locate(disagreement, root)
            for disagreement in disagreements(error)
            if not any(_overlap(tuple(key.split(".")), path) for key in disagreement.keys for path in wrong)
        ]
    return []


def _key(path: KeyPath) -> KeyPath:
    """The key to leave out for all that is wrong at `path` to be gone: a whole list, the whole part of a type."""
    key = tuple(takewhile(lambda step: isinstance(step, str), path))
    return key[:-1] if key[-1:] == ("type",) else key


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))
