"""`key.sub=value` and `list[0].key=value` from the command line, laid over a recipe's tree."""

from collections.abc import Sequence

from vae_ldm.errors import RecipeError
from vae_ldm.recipe.document import (
    DEEPEST,
    OVERRIDE,
    KeyPath,
    Mistake,
    Node,
    Origin,
    as_yaml,
    dotted,
    key_path,
    parse_value,
)
from vae_ldm.recipe.parts import AutoencoderLoss, Part
from vae_ldm.recipe.schema import Recipe
from vae_ldm.recipe.schema_walk import chosen, parts_below, tag
from vae_ldm.text import counted

_AFTER_EVERY_LINE = 1_000_000
_KL_WEIGHTS = ("kl_weight", "kl_weight_per_latent")


def apply_overrides(root: Node, overrides: Sequence[str]) -> list[Mistake]:
    """What is wrong with the overrides; those that can be read are written into `root`, the later over the earlier."""
    mistakes = []
    for index, override in enumerate(overrides):
        key, equals, text = override.partition("=")
        path = key_path(key.strip())
        origin = Origin(_AFTER_EVERY_LINE + index, f"{OVERRIDE}{override}", path)
        try:
            if not equals or "" in path:
                raise RecipeError("an override is written key.sub=value")
            if len(path) > DEEPEST:
                raise RecipeError(f"nested deeper than {DEEPEST} levels")
            _set(root, path, parse_value(text, origin))
        except RecipeError as error:
            mistakes.append(Mistake(origin, (), str(error)))
    return mistakes


def _set(root: Node, path: KeyPath, value: Node) -> None:
    """Write `value` at `path`; parts that are absent on the way are made, of the type they have by default."""
    node: Node = root
    parts: tuple[type[Part], ...] = (Recipe,)
    for depth, key in enumerate(path[:-1]):
        if isinstance(key, int):
            node = _items(node, path[:depth], key)[key]
            continue
        entries = _entries(node, path[:depth])
        parts = chosen(parts, _type(node))
        if key not in entries or entries[key].value is None:
            _check_not_switched_off(entries.get(key), path[: depth + 1])
            entries[key] = Node({}, value.origin)
            default_type = _default_type(parts, key)
            if default_type is not None:
                entries[key].value = {"type": Node(default_type, value.origin)}
        node, parts = entries[key], parts_below(parts, key)
    last = path[-1]
    if isinstance(last, int):
        _items(node, path[:-1], last)[last] = value
        return
    entries = _entries(node, path[:-1])
    if last == "type":
        _leave_other_type(node, entries, parts, value)
    _leave_other_key(entries, parts, last)
    entries[last] = value


def _check_not_switched_off(node: Node | None, path: KeyPath) -> None:
    """Raise RecipeError where an override has set the part at `path` to null, which a later one would bring back."""
    if node is not None and node.origin.override_path is not None:
        raise RecipeError(f"{node.origin.label} sets {dotted(path)} to null; leave out one of the two")


def _items(node: Node, path: KeyPath, number: int) -> list[Node]:
    """The items of a list. Raises RecipeError where there is no list, or it has no item of this number."""
    if not isinstance(node.value, list):
        raise RecipeError(f"{dotted(path)} is {as_yaml(node.plain())}, which is no list and has no items")
    if number >= len(node.value):
        raise RecipeError(f"{dotted(path)} has {counted(len(node.value), 'item')}, counted from 0")
    return node.value


def _entries(node: Node, path: KeyPath) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise RecipeError(
            f"{dotted(path)} is {as_yaml(node.plain())}, which has no keys; set {dotted(path)} as a whole"
        )
    return node.value


def _type(node: Node) -> object:
    child = node.child("type")
    return None if child is None else child.value


def _default_type(parts: tuple[type[Part], ...], key: str) -> str | None:
    defaults = (part.model_fields[key].default for part in parts if key in part.model_fields)
    return next((tag(type(default)) for default in defaults if isinstance(default, Part)), None)


def _leave_other_key(entries: dict[str, Node], parts: tuple[type[Part], ...], key: str) -> None:
    """Drop what the file says for the other of two keys of which a recipe has one."""
    for one, other in (_KL_WEIGHTS, _KL_WEIGHTS[::-1]):
        if AutoencoderLoss in parts and key == one and other in entries and entries[other].origin.override_path is None:
            del entries[other]


def _leave_other_type(node: Node, entries: dict[str, Node], parts: tuple[type[Part], ...], value: Node) -> None:
    """Drop what the file says about the type that is overridden and the new type does not know.

    Without it no override could change a type: a key of the old one would be an unknown key of the new one.
    """
    old, new = chosen(parts, _type(node)), chosen(parts, value.value)
    if len(old) == len(new) == 1:
        for key in old[0].model_fields.keys() - new[0].model_fields.keys():
            if key in entries and entries[key].origin.override_path is None:
                del entries[key]
