"""A recipe's text as a tree that remembers where each piece comes from: a line of the file, or an override.

YAML 1.2 with its core schema (section 10.3.2 of the standard: `1e-4` is a number, `yes` is a string), less what
can hide something from the reader or run code: no tags, no anchors and aliases, no merge keys, no key twice.
"""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from vae_ldm.errors import RecipeError
from vae_ldm.text import shown as printable

KeyPath = tuple[str | int, ...]
Scalar = str | int | float | bool | None

OVERRIDE = "override "
"""How the label of an origin begins that is no line of a file."""
_LARGEST_FILE = 128 * 1024
DEEPEST = 32
_SURROGATE = re.compile("[\ud800-\udfff]")
_CORE_SCHEMA = (
    (re.compile(r"null|Null|NULL|~|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]{1,300}"), int),
    (re.compile(r"0o[0-7]{1,99}"), lambda text: int(text, 8)),
    (re.compile(r"0x[0-9a-fA-F]{1,99}"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)


class Origin(NamedTuple):
    """Where a piece of a recipe was written. Sorts by line, overrides last."""

    order: int
    label: str
    override_path: KeyPath | None = None


class Mistake(NamedTuple):
    """One thing that is wrong, in plain words."""

    origin: Origin
    path: KeyPath
    text: str

    def __str__(self) -> str:
        path = () if self.origin.override_path == self.path else self.path
        return printable(": ".join(filter(None, (_short(self.origin.label), _short(dotted(path)), self.text))))


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:200]}..."


def dotted(path: KeyPath) -> str:
    """The path as it is written in messages: `autoencoder.optimizer.betas[1]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


_STEP = re.compile(r"([^\[\]]+)((?:\[[0-9]{1,6}\])*)")


def key_path(text: str) -> KeyPath:
    """The path that `dotted` wrote; a step that is no key with numbers in brackets stays as it is."""
    path: KeyPath = ()
    for step in text.split("."):
        found = _STEP.fullmatch(step)
        if found is None:
            path = (*path, step)
        else:
            path = (*path, found[1], *(int(number) for number in re.findall("[0-9]+", found[2])))
    return path


@dataclass
class Node:
    """A piece of the recipe and where it was written: for the value of a key, where the key is."""

    value: "Scalar | dict[str, Node] | list[Node]"
    origin: Origin

    def child(self, step: str | int) -> "Node | None":
        """The node below, or None."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def find(self, path: KeyPath) -> "Node | None":
        """The node at `path`, or None."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node is not None else None
        return node

    def nearest(self, path: KeyPath) -> "Node":
        """The node at `path`, or the deepest one on the way there."""
        node = self
        for step in path:
            below = node.child(step)
            if below is None:
                break
            node = below
        return node

    def plain(self, without: frozenset[KeyPath] = frozenset(), path: KeyPath = ()) -> object:
        """Dicts, lists and scalars, less the mapping entries at the paths in `without`."""
        if isinstance(self.value, dict):
            entries = {(*path, key): node for key, node in self.value.items()}
            return {at[-1]: node.plain(without, at) for at, node in entries.items() if at not in without}
        if isinstance(self.value, list):
            return [node.plain(without, (*path, index)) for index, node in enumerate(self.value)]
        return self.value


def read_scalar(text: str) -> Scalar:
    """The value of an unquoted YAML 1.2 scalar."""
    for pattern, construct in _CORE_SCHEMA:
        if pattern.fullmatch(text):
            return construct(text)
    return text


def parse_file(path: Path) -> tuple[Node, list[Mistake]]:
    """The tree of a recipe file, and what is wrong with it as YAML.

    Raises RecipeError where there is no tree to speak of: no file, not text, not YAML, not a mapping.
    """
    root, mistakes = parse_text(_read_text(path), str(path))
    if root.value is None:
        raise RecipeError(f"{path}: is empty; a recipe needs at least name, data and autoencoder")
    if not isinstance(root.value, dict):
        raise RecipeError(
            f"{path}:{root.origin.order}: a recipe is a mapping (key: value), not {as_yaml(root.plain())}"
        )
    return root, mistakes


def parse_text(text: str, file: str) -> tuple[Node, list[Mistake]]:
    """The tree of a YAML text that stands in `file`, and its mistakes."""
    builder = _Builder(lambda line: Origin(line, f"{file}:{line}"))
    try:
        return builder.build(text), builder.mistakes
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark is not None else file
        raise RecipeError(f"{place}: not YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise RecipeError(f"{file}: not YAML: {str(error).splitlines()[0]}") from None
    except (ValueError, OverflowError):  # of chr(), which ruamel calls on any number after \\U
        raise RecipeError(f"{_place_of_escape(text, file)}: not YAML: an escape that names no character") from None


def parse_value(text: str, origin: Origin) -> Node:
    """The tree of an override's value. Raises RecipeError, whose message lacks the place."""
    builder = _Builder(lambda _: origin)
    try:
        node = builder.build(text)
    except YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"the value is not YAML: {problem}; write {in_quotes(origin)}") from None
    except (ValueError, OverflowError):
        raise RecipeError("the value is not YAML: an escape that names no character") from None
    if text[builder.end :].lstrip().startswith("#"):
        raise RecipeError(f"in YAML a # begins a comment, which would be cut off; write {in_quotes(origin)}")
    if builder.mistakes:
        raise RecipeError("; ".join(mistake.text for mistake in builder.mistakes))
    return node


def in_quotes(origin: Origin) -> str:
    """The override of this origin as a shell takes it when its value is text, whatever it looks like."""
    key, _, text = origin.label.removeprefix(OVERRIDE).partition("=")
    if len(text) > 200:
        return "it in quotes inside the shell's quotes"
    return shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")


def _place_of_escape(text: str, file: str) -> str:
    for escape in re.finditer(r"\\U([0-9a-fA-F]{8})", text):
        if int(escape[1], 16) > sys.maxunicode:
            return f"{file}:{text.count(chr(10), 0, escape.start()) + 1}"
    return file


def as_yaml(value: object) -> str:
    """The value as YAML would have it, short enough for a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_yaml(item) for item in value[:8])}{', ...' if len(value) > 8 else ''}]"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder; name the YAML file in it") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > _LARGEST_FILE:
        raise RecipeError(f"{path}: is larger than {_LARGEST_FILE // 1024} KiB, so it is not a recipe")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text (byte 0x{content[error.start]:02x})") from None


class _Builder:
    """Builds the tree from the parser's events, which are read one by one: a bomb of aliases never unfolds."""

    def __init__(self, origin_of_line: Callable[[int], Origin]) -> None:
        self.mistakes: list[Mistake] = []
        self.end = 0
        self._origin_of_line = origin_of_line

    def build(self, text: str) -> Node:
        """The tree of the text's first document; empty text is null. Afterwards `end` is where its last node ends."""
        root = None
        events = self._followed(iter(YAML(typ="safe", pure=True).parse(text)))
        for event in events:
            if not isinstance(event, NodeEvent):
                continue
            if root is not None:
                self._wrong(event, (), "a second document begins here; a recipe is one document")
                break
            root = self._node(event, events, (), 0)
        return root or Node(None, self._origin_of_line(1))

    def _followed(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, NodeEvent | CollectionEndEvent):
                self.end = event.end_mark.index
            yield event

    def _node(self, event: Event, events: Iterator[Event], path: KeyPath, depth: int) -> Node:
        if depth > DEEPEST:
            raise MarkedYAMLError(problem=f"nested deeper than {DEEPEST} levels", problem_mark=event.start_mark)
        self._refuse_indirection(event, path)
        origin = self._origin(event)
        if isinstance(event, MappingStartEvent):
            return Node(self._mapping(events, path, depth + 1), origin)
        if isinstance(event, SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(events), CollectionEndEvent):
                items.append(self._node(item, events, (*path, len(items)), depth + 1))
            return Node(items, origin)
        if isinstance(event, ScalarEvent):
            return Node(self._scalar(event, path), origin)
        return Node(None, origin)

    def _scalar(self, event: ScalarEvent, path: KeyPath) -> Scalar:
        if _SURROGATE.search(event.value):
            self._wrong(event, path, "holds half of a character (\\uD800 to \\uDFFF); write the whole one")
            return None
        return event.value if event.style else read_scalar(event.value)

    def _mapping(self, events: Iterator[Event], path: KeyPath, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(events), CollectionEndEvent):
            if not isinstance(event, ScalarEvent) or _SURROGATE.search(event.value):
                self._node(event, events, path, depth)
                self._wrong(event, path, "a key must be a word")
                self._node(next(events), events, path, depth)
                continue
            self._refuse_indirection(event, path)
            at = (*path, event.value)
            node = self._node(next(events), events, at, depth)
            if event.value == "<<":
                self._wrong(event, path, "merge keys (<<) are not allowed; write the keys out")
            elif event.value in entries:
                self._wrong(event, at, f"given twice; first at {entries[event.value].origin.label}")
            else:
                entries[event.value] = Node(node.value, self._origin(event))
        return entries

    def _refuse_indirection(self, event: Any, path: KeyPath) -> None:
        if isinstance(event, AliasEvent) or event.anchor is not None:
            self._wrong(event, path, "anchors and aliases (&name, *name) are not allowed; write the value out")
        elif event.tag is not None:
            self._wrong(event, path, f"tags ({event.tag}) are not allowed; write the plain value")

    def _wrong(self, event: Event, path: KeyPath, text: str) -> None:
        self.mistakes.append(Mistake(self._origin(event), path, text))

    def _origin(self, event: Event) -> Origin:
        return self._origin_of_line(event.start_mark.line + 1)
