"""Finding one's way in the schema: which parts stand at a key path, and which keys and tags they know."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from vae_ldm.recipe.parts import Part, is_free_under_way
from vae_ldm.recipe.schema import Recipe


def part_types(annotation: object) -> tuple[type[Part], ...]:
    """The parts that an annotation, or each item of a list, allows: none for a plain value, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return (annotation,)
    if get_origin(annotation) is Annotated:
        return part_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple):
        return tuple(part for member in get_args(annotation) for part in part_types(member))
    return ()


def tag(part: type[Part]) -> str | None:
    """The `type:` that chooses this part, or None where it is not one of several."""
    field = part.model_fields.get("type")
    return None if field is None else field.default


def parts_below(parts: tuple[type[Part], ...], key: str) -> tuple[type[Part], ...]:
    """The parts that `key` may hold in any of `parts`."""
    fields = (part.model_fields.get(key) for part in parts)
    below = (found for field in fields if field is not None for found in part_types(field.annotation))
    return tuple(dict.fromkeys(below))


def chosen(parts: tuple[type[Part], ...], chosen_tag: object) -> tuple[type[Part], ...]:
    """The one part of a tagged union that `chosen_tag` names; all of them where it names none."""
    return tuple(part for part in parts if tag(part) == chosen_tag) or parts


def all_key_paths(parts: tuple[type[Part], ...] = (Recipe,)) -> Iterator[tuple[str, ...]]:
    """Every key path that some recipe may use."""
    keys = dict.fromkeys(key for part in parts for key in part.model_fields)
    for key in keys:
        yield (key,)
        yield from ((key, *rest) for rest in all_key_paths(parts_below(parts, key)))


def keys_free_under_way(parts: tuple[type[Part], ...] = (Recipe,)) -> frozenset[str]:
    """Dotted keys whose value may change while the stage that they belong to is under way: the schema marks them."""
    fields = {key: field for part in parts for key, field in part.model_fields.items()}
    marked = {key for key, field in fields.items() if is_free_under_way(field)}
    below = {f"{key}.{path}" for key in fields for path in keys_free_under_way(parts_below(parts, key))}
    return frozenset(marked | below)
