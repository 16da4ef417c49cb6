"""What all parts of a recipe share: strictness, and numbers with bounds."""

from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)
from pydantic.fields import FieldInfo


def _whole_number(value: object) -> object:
    # A Literal alone takes true and 1.0 for 1.
    if value is not None and type(value) is not int:
        raise ValueError("needs a whole number")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=8, le=4096)]
ImageSize = Side | Annotated[tuple[Side, Side], Strict(False)]
WholeNumber = BeforeValidator(_whole_number)
_FREE_UNDER_WAY = "x-free-under-way"
FreeUnderWay = Field(json_schema_extra={_FREE_UNDER_WAY: True})
"""Marks a setting that may change while its stage is under way."""


def is_free_under_way(field: FieldInfo) -> bool:
    """Whether a setting is so marked."""
    return isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(_FREE_UNDER_WAY) is True


class Part(BaseModel):
    """A closed, strict, frozen piece of a recipe: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
