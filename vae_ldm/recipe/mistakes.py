"""Pydantic's errors in plain words, each at the line or override that caused it."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from itertools import takewhile
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ValidationError

from vae_ldm.recipe.disagreement import Disagreement, SettingsError
from vae_ldm.recipe.document import KeyPath, Mistake, Node, as_yaml, dotted, in_quotes, key_path, read_scalar
from vae_ldm.recipe.parts import PATTERNS, Part
from vae_ldm.recipe.schema import Recipe
from vae_ldm.recipe.schema_walk import all_key_paths, chosen, parts_below, tag

_KINDS = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
MOST_SHOWN = 50
"""Mistakes that are put in words, the first of the file."""
_IN_QUOTES = "; put it in quotes"
_MEANT_BY = {"yes": "true", "on": "true", "no": "false", "off": "false"}


class _Place(NamedTuple):
    """A location of pydantic's, found again in the recipe and in the schema."""

    path: KeyPath
    owner: tuple[type[Part], ...]
    """The part whose key is last in the path."""
    owner_union: tuple[type[Part], ...]
    """The tagged union out of which the owner was chosen."""
    parts: tuple[type[Part], ...]
    """What may stand at the path."""


def explain(error: ValidationError, root: Node) -> list[Mistake]:
    """The mistakes in single keys behind a failed validation of `root`, one a key path, `MOST_SHOWN` in words."""
    details: dict[KeyPath, list[tuple[Any, _Place]]] = {}
    for detail in error.errors(include_url=False):
        if _disagreement_error(detail) is None:
            place = _place(detail["loc"])
            details.setdefault(place.path, []).append((detail, place))
    order = {path: root.nearest(path).origin.order for path in details}
    lists_with_wrong_items = {path[:-1] for path in details if path and isinstance(path[-1], int)}
    mistakes = []
    for number, path in enumerate(sorted(details, key=order.__getitem__)):
        found = details[path]
        if number >= MOST_SHOWN:  # nobody reads it, and a hint for each of thousands would take a minute
            mistakes.append(Mistake(root.nearest(path).origin, path, ""))
            continue
        if path in lists_with_wrong_items and all(detail["type"] == "too_short" for detail, _ in found):
            continue  # pydantic counts the items that are right
        # A value that may be one of two kinds fails as both: what is wrong within the right kind says more.
        precise = [one for one in found if one[0]["type"] not in _KINDS]
        if path in lists_with_wrong_items:  # wrong items do not count, so that a list of them seems too short
            precise = [one for one in precise if one[0]["type"] != "too_short"]
        if precise:
            mistakes.append(_mistake(*precise[0], root))
        elif path not in lists_with_wrong_items:
            kinds = dict.fromkeys(_KINDS[detail["type"]] for detail, _ in found)
            origin = root.nearest(path).origin
            text = _wrong_kind(list(kinds), found[0][0]["input"])
            if text.endswith(_IN_QUOTES) and origin.override_path == path:
                text = f"{text.removesuffix(_IN_QUOTES)}; write {in_quotes(origin)}"
            mistakes.append(Mistake(origin, path, text))
    return list({mistake.path: mistake for mistake in mistakes}.values())


def misspelt_types(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """The key path of each unknown `type:` behind a failed validation, and the legal one nearest to it, if there is."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "union_tag_invalid":
            place = _place(detail["loc"])
            nearest = _nearest(str(detail["input"]["type"]), map(str, _tags(place.parts)))
            if nearest is not None:
                yield (*place.path, "type"), nearest


def disagreements_behind(error: ValidationError) -> list[Disagreement]:
    """The settings that cannot work together behind a failed validation."""
    found = (_disagreement_error(detail) for detail in error.errors(include_url=False))
    return [disagreement for cause in found if cause is not None for disagreement in cause.disagreements]


def locate(disagreement: Disagreement, root: Node) -> Mistake:
    """The disagreement where it was caused: by an override if there is one, else at the first key that is written."""
    paths = [key_path(key) for key in disagreement.keys]
    written = [node.origin for path in paths if (node := root.find(path)) is not None]
    overrides = [origin for origin in written if origin.override_path is not None]
    origin = (overrides or written or [root.nearest(paths[0]).origin])[0]
    return Mistake(origin, paths[0], disagreement.text)


def _disagreement_error(detail: Any) -> SettingsError | None:
    cause = (detail.get("ctx") or {}).get("error")
    return cause if isinstance(cause, SettingsError) else None


def _place(location: Iterable[str | int]) -> _Place:
    path: KeyPath = ()
    owner: tuple[type[Part], ...] = ()
    owner_union: tuple[type[Part], ...] = ()
    parts: tuple[type[Part], ...] = (Recipe,)
    union = parts
    for step in location:
        if isinstance(step, int):
            path = (*path, step)
        elif len(parts) > 1:
            parts = chosen(parts, step)
        elif parts:
            path = (*path, step)
            owner, owner_union = parts, union
            parts = union = parts_below(parts, step)
        # Else it is pydantic's name for a member of a plain union, such as "tuple[int, int]".
    return _Place(path, owner, owner_union, parts)


def _mistake(detail: Any, place: _Place, root: Node) -> Mistake:
    """One mistake, from an error that is not merely about the kind of value."""
    path, kind, value, context = place.path, detail["type"], detail["input"], detail.get("ctx") or {}
    if kind == "missing" and isinstance(path[-1], int):
        path, text = path[:-1], f"has too few items: {as_yaml(value)}"
    elif kind == "missing":
        return _missing(place, root)
    elif kind == "union_tag_not_found":
        text = f"has no type; {_legal(_tags(place.parts))}"
    elif kind == "union_tag_invalid":
        path, text = (*path, "type"), _unknown("type", value["type"], _tags(place.parts))
    elif kind == "extra_forbidden":
        text = f"unknown key; {_instead_of(place)}"
    elif kind in ("literal_error", "value_error") and (legal := _literals(place)):
        text = _unknown("value", value, legal)
    elif kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        limit = context[bound]
        text = f"must be {words} {limit if isinstance(limit, int) else f'{limit:.10g}'}, not {as_yaml(value)}"
    elif kind == "finite_number":
        text = f"must be a finite number, not {as_yaml(value)}"
    elif kind == "too_short":
        text = f"has too few items: {as_yaml(value)}"
    elif kind == "too_long":
        text = f"has too many items: {as_yaml(value)}"
    elif kind == "string_too_short":
        text = "must not be empty"
    elif kind == "string_too_long":
        text = f"has more than {context['max_length']:,} characters: {as_yaml(value)}"
    elif kind == "string_pattern_mismatch":
        text = f"{PATTERNS[context['pattern']]}, not {as_yaml(value)}"
    else:
        text = f"{detail['msg'].removeprefix('Value error, ')}, not {as_yaml(value)}"
    return Mistake(root.nearest(path).origin, path, text)


def _missing(place: _Place, root: Node) -> Mistake:
    part = root.nearest(place.path)
    type_node = part.child("type")
    if type_node is None:
        return Mistake(part.origin, place.path, "required, but missing")
    return Mistake(type_node.origin, place.path, f"required by type {as_yaml(type_node.plain())}, but missing")


def _wrong_kind(kinds: list[str], value: object) -> str:
    text = f"needs {' or '.join(kinds)}, not {as_yaml(value)}"
    if kinds == ["text"] and isinstance(value, bool | int | float):
        return f"{text}{_IN_QUOTES}"
    if kinds == ["true or false"] and str(value).lower() in _MEANT_BY:
        return f"{text}; did you mean {_MEANT_BY[str(value).lower()]}?"
    if kinds == ["a mapping"] and value is None:
        return f"{text}; write {{}} for a part that is all defaults"
    if isinstance(value, str) and not isinstance(read_scalar(value), str):
        return f"{text}; leave out the quotes"
    return text


def _instead_of(place: _Place) -> str:
    """What to write instead of an unknown key: a key spelled much like it, or the same key where it belongs."""
    key, owner = str(place.path[-1]), place.owner[0]
    near = _nearest(key, owner.model_fields)
    if near is not None:
        return f"did you mean {dotted((*place.path[:-1], near))}?"
    siblings = [tag(part) for part in place.owner_union if key in part.model_fields]
    if siblings:
        return f"type {tag(owner)} has none, type {siblings[0]} has"
    elsewhere = [path for path in _every_key_path() if path[-1] == key != "type"]
    if elsewhere:
        closest = max(elsewhere, key=lambda path: (_shared_steps(path, place.path), -len(path)))
        return f"did you mean {dotted(closest)}?"
    return _legal(owner.model_fields)


@cache
def _every_key_path() -> tuple[tuple[str, ...], ...]:
    return tuple(all_key_paths())


def _shared_steps(one: KeyPath, other: KeyPath) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def _unknown(noun: str, value: object, legal: tuple[object, ...]) -> str:
    near = _nearest(str(value), map(str, legal))
    hint = f"did you mean {near}? " if near is not None else ""
    return f"unknown {noun} {as_yaml(value)}; {hint}{_legal(legal)}"


def _nearest(word: str, legal: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word.lower().replace("-", "_"), legal, n=1, cutoff=0.65)), None)


def _legal(values: Iterable[object]) -> str:
    return f"legal: {', '.join(value if isinstance(value, str) else as_yaml(value) for value in values)}"


def _tags(parts: tuple[type[Part], ...]) -> tuple[str | None, ...]:
    return tuple(tag(part) for part in parts)


def _literals(place: _Place) -> tuple[object, ...]:
    """The values that the key at `place` may have where a Literal lists them, null among them if it may be null."""
    return _literal_values(place.owner[0].model_fields[str(place.path[-1])].annotation)


def _literal_values(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if annotation is type(None):
        return (None,)
    return tuple(value for member in get_args(annotation) for value in _literal_values(member))
