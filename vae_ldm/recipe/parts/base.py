"""What all parts of a recipe share: strictness, and numbers with bounds."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)
from pydantic.fields import FieldInfo

from vae_ldm.choices import RUNS_FOLDER
from vae_ldm.starter import STARTER, is_starter


def _whole_number(value: object) -> object:
    # A Literal alone takes true and 1.0 for 1.
    if value is not None and type(value) is not int:
        raise ValueError("needs a whole number")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
# Every number has an upper bound: one with which a run cannot end is refused before it begins.
Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""A number of steps or pictures."""
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""A number of steps; 0 is none."""
BatchSize = Annotated[int, Field(gt=0, le=65_536)]
Width = Annotated[int, Field(gt=0, le=8192)]
"""The width of a layer, in channels."""
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
"""The weight of a loss term; 0 leaves it out."""
PositiveWeight = Annotated[float, Field(gt=0, le=1_000_000)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
"""A beta of Adam."""
Side = Annotated[int, Field(ge=8, le=4096)]
ImageSize = Side | Annotated[tuple[Side, Side], Strict(False)]


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of an ImageSize."""
    return (size, size) if isinstance(size, int) else size


WholeNumber = BeforeValidator(_whole_number)
_FREE_UNDER_WAY = "x-free-under-way"
FreeUnderWay = Field(json_schema_extra={_FREE_UNDER_WAY: True})
"""Marks a setting that may change while its stage is under way."""
_DECIDED_BY_WEIGHTS = "x-decided-by-weights"
DecidedByWeights = Field(json_schema_extra={_DECIDED_BY_WEIGHTS: True})
"""Marks a setting that pretrained weights decide, so that a recipe with `from_pretrained` must not."""


def is_free_under_way(field: FieldInfo) -> bool:
    """Whether a setting is so marked."""
    return isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(_FREE_UNDER_WAY) is True


def is_decided_by_weights(field: FieldInfo) -> bool:
    """Whether a setting is so marked."""
    return isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(_DECIDED_BY_WEIGHTS) is True


@dataclass(frozen=True)
class PlaceKind:
    """Marks a setting that names a place, and says which words are repositories of the Hub and which are paths."""

    hub_name: str | None
    """A regular expression for names of repositories; None where the setting is a path whatever it looks like."""
    has_starter: bool = False
    """Whether `starter` names the autoencoder that comes with the package."""

    def is_path(self, place: str, *, kept: bool = False) -> bool:
        """Whether `place` is a file or folder of this machine. In a recipe that a run has `kept` paths are whole ones,
        so that `starter` is the package's, whatever the current folder holds."""
        if self.has_starter and place == STARTER and (kept or is_starter(place)):
            return False
        return not self.is_of_the_hub(place)

    def is_of_the_hub(self, place: str) -> bool:
        """Whether `place` is the name of a repository and no path: it is no run, and nothing of its name lies here."""
        if self.hub_name is None or re.fullmatch(self.hub_name, place) is None:
            return False
        if place.startswith("hf://"):
            return True
        first = place.partition("/")[0]
        return first != RUNS_FOLDER and not Path(first).exists()


def place_kind(field: FieldInfo) -> PlaceKind | None:
    """How a setting names a place; None where it names none."""
    return next(_place_kinds((*field.metadata, field.annotation)), None)


def _place_kinds(annotations: Iterable[object]) -> Iterator[PlaceKind]:
    for annotation in annotations:
        if isinstance(annotation, PlaceKind):
            yield annotation
        else:
            yield from _place_kinds(get_args(annotation))


_NAME = r"[A-Za-z0-9][\w.-]*"
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
REPOSITORY = r"^\w[\w.-]*/\w[\w.-]*$"
_PATH = r"^[^\x00]+$"
_WORD = r"^[^\x00-\x1f\x7f]+$"
_SUBFOLDER = r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$"
PATTERNS = {
    RUN_NAME: "must begin with a letter or digit and hold letters, digits, '.', '_' and '-' only",
    REPOSITORY: "must be ORG/NAME, in letters, digits and . _ -",
    _PATH: "holds a character that no path has",
    _WORD: "holds a control character",
    _SUBFOLDER: "must be a folder below it, such as vae",
}
"""What is wrong with a text that does not match."""
# No NUL in what becomes a path, and no more than a file system takes.
_path_text = Field(min_length=1, max_length=4096, pattern=_PATH)
LocalPath = Annotated[str, _path_text, PlaceKind(None)]
"""A file or folder of this machine."""
PretrainedWeights = Annotated[str, _path_text, PlaceKind(rf"(hf://)?{_NAME}/{_NAME}(@[\w./-]+)?", True)]
"""ORG/NAME of the Hub, a file or folder, or `starter`."""
HubDatasetName = Annotated[str, _path_text, PlaceKind(rf"{_NAME}(/{_NAME})?")]
"""A data set of the Hub, or a folder."""
Word = Annotated[str, Field(min_length=1, max_length=1000, pattern=_WORD)]
"""A name that somebody else gave: of a column, a branch, a project."""
Subfolder = Annotated[str, Field(max_length=1000, pattern=_SUBFOLDER)]
"""A folder inside a repository or another folder, never above it."""
Caption = Annotated[str, Field(max_length=10_000)]


class Part(BaseModel):
    """A closed, strict, frozen piece of a recipe: an unknown key or a wrong type is an error."""

    type_may_be_left_out: ClassVar[bool] = False
    """Of several parts with a `type`: this one is meant where the recipe names none."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
