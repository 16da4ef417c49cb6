"""Reads a recipe file and overrides into a checked Recipe, or names every mistake at once."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import takewhile
from pathlib import Path

from pydantic import ValidationError

from vae_ldm.errors import RecipeError
from vae_ldm.recipe.document import KeyPath, Mistake, Node, key_path, parse_file
from vae_ldm.recipe.mistakes import MOST_SHOWN, disagreements_behind, explain, locate, misspelt_types
from vae_ldm.recipe.overrides import apply_overrides
from vae_ldm.recipe.schema import Recipe
from vae_ldm.recipe.upgrade import NEWEST, OLD_MIN_LENGTH, format_of, upgrade, upgraded_text
from vae_ldm.text import counted


def read_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    as_trained: bool = False,
    without: Sequence[str] = (),
    warn: Callable[[str], None] | None = None,
) -> Recipe:
    """The recipe in the file at `path` under `overrides` (`key.sub=value`, the value in YAML).

    A recipe of an older format means what it meant when it was written. With `as_trained`, for the recipe.yaml of a run
    folder, settings that only later formats refuse are accepted in an older one. Sections named in `without` are left
    out before the overrides apply. `warn` is told at most one line, of what is deprecated.

    Raises RecipeError with all mistakes, each on a line of its own that names the file's line or the override.
    """
    root, mistakes = parse_file(path)
    number = format_of(root)
    assert isinstance(root.value, dict)
    for section in without:
        root.value.pop(section, None)
    mistakes += apply_overrides(root, overrides)
    context = {"format": number if as_trained else NEWEST}
    kl_weight = root.find(("autoencoder", "loss", "kl_weight"))  # before an upgrade writes it
    if number < NEWEST:
        upgrade(root, number)
    elif as_trained:
        _name_old_min_length(root)
    unread = {mistake.path for mistake in mistakes if root.nearest(mistake.path).value is None}  # such as an alias
    try:
        recipe = Recipe.model_validate(root.plain(), context=context)
    except ValidationError as error:
        wrong = explain(error, root)
        wrong += _under_misspelt_types(error, root, {mistake.path for mistake in wrong})
        mistakes += [mistake for mistake in wrong if mistake.path not in unread]
        mistakes += _disagreements_of_the_rest(root, frozenset(_key(mistake.path) for mistake in wrong), context)
    if mistakes:
        raise RecipeError(_in_words(mistakes))
    if warn is not None and (line := _deprecation(recipe, path, number, kl_weight)) is not None:
        warn(line)
    return recipe


def upgrade_recipe(path: Path) -> tuple[str, list[str]]:
    """The text of the recipe at `path` in the newest format, comments kept, and a line for each change.

    Raises RecipeError with all mistakes of the recipe as it stands.
    """
    recipe = read_recipe(path)
    number = format_of(parse_file(path)[0])
    text, changes = upgraded_text(path, number)
    kept = [] if (line := _deprecated_kl_weight(recipe)) is None else [line]
    if number == NEWEST:
        return text, [f"is of format {NEWEST} already", *kept]
    return text, [f"format: {number} -> {NEWEST}", *map(str, changes), *kept]


def _name_old_min_length(root: Node) -> None:
    """A run keeps every key; one that lacks min_length was begun before there was this key."""
    encoder = root.find(("diffusion", "text_encoder"))
    if encoder is not None and isinstance(encoder.value, dict) and "min_length" not in encoder.value:
        kind = encoder.child("type")
        if kind is not None and kind.value == "trained":
            encoder.value["min_length"] = Node(OLD_MIN_LENGTH, encoder.origin)


def _in_words(mistakes: list[Mistake]) -> str:
    """A line for each mistake in order of the file's lines, and one for those that are too many."""
    ordered = sorted(mistakes, key=lambda mistake: (not mistake.text, mistake.origin.order))
    lines = [str(mistake) for mistake in ordered[:MOST_SHOWN]]
    if len(ordered) > MOST_SHOWN:
        lines.append(f"... and {counted(len(ordered) - MOST_SHOWN, 'mistake')} more")
    return "\n".join(lines)


def _deprecation(recipe: Recipe, path: Path, number: int, kl_weight: Node | None) -> str | None:
    """A line for the user about the deprecated key that they wrote, else about an older format."""
    if kl_weight is not None and (line := _deprecated_kl_weight(recipe)) is not None:
        return f"{kl_weight.origin.label}: {line}"
    if number < NEWEST:
        return (
            f"{path}: is a recipe of format {number} and means what it meant in vae_ldm 0.{number}; "
            f"`vae-ldm recipe upgrade {path}` prints it in format {NEWEST}"
        )
    return None


def _under_misspelt_types(error: ValidationError, root: Node, known: set[KeyPath]) -> list[Mistake]:
    """What else is written wrong in parts of an unknown type, taken for the nearest: pydantic stops at the type."""
    misspelt = list(misspelt_types(error))
    if not misspelt:
        return []
    corrected = deepcopy(root)
    for path, nearest in misspelt:
        corrected.nearest(path).value = nearest
    try:
        Recipe.model_validate(corrected.plain())
    except ValidationError as rest:
        found = explain(rest, corrected)
        return [mistake for mistake in found if mistake.path not in known and root.find(mistake.path) is not None]
    return []


def _disagreements_of_the_rest(root: Node, wrong: frozenset[KeyPath], context: dict[str, int]) -> list[Mistake]:
    """Settings that cannot work together, which pydantic looks at only once each is right by itself."""
    try:
        Recipe.model_validate(root.plain(without=wrong), context=context)
    except ValidationError as error:
        return [
            locate(disagreement, root)
            for disagreement in disagreements_behind(error)
            if not any(_overlap(key_path(key), path) for key in disagreement.keys for path in wrong)
        ]
    return []


def _key(path: KeyPath) -> KeyPath:
    """The key to leave out for all that is wrong at `path` to be gone: a whole list, the whole part of a type."""
    key = tuple(takewhile(lambda step: isinstance(step, str), path))
    return key[:-1] if key[-1:] == ("type",) else key


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


def _deprecated_kl_weight(recipe: Recipe) -> str | None:
    """What to write instead of `kl_weight`; None for a recipe without it."""
    value, latents = recipe.autoencoder.loss.kl_weight, recipe.num_latents
    if value is None:
        return None
    same = "" if latents is None else f": {value * latents:.6g} is the same for this recipe"
    return (
        "autoencoder.loss.kl_weight is deprecated and goes with vae_ldm 0.3; "
        f"write autoencoder.loss.kl_weight_per_latent{same}"
    )
