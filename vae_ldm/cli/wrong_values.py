"""What is wrong with the value of an option, in our own words for all versions of typer: old ones ask click, new ones
pydantic.
"""

import math
import re
from typing import Any

_BOUNDS = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
"""pydantic's kinds of mistake: where it keeps the bound, and our words."""
_KINDS = {
    "int_parsing": "needs a whole number",
    "float_parsing": "needs a number",
    "finite_number": "must be a finite number",
}
_OF_CLICK = (("integer", "int_parsing"), ("float", "float_parsing"))

_BY_BACKBONE = "detectors compare what a vision backbone sees (--backbone)"
_NO_LONGER = {
    ("novelty fit", "--model"): f"no autoencoder is needed; {_BY_BACKBONE}",
    ("novelty score", "--model"): f"no autoencoder is needed; {_BY_BACKBONE}",
    ("novelty fit", "--features"): _BY_BACKBONE,
    ("novelty fit", "--score"): "all scores are combined, with weights learned from the photos",
    ("novelty fit", "--calibration"): "all photos calibrate, each by a fit that has not seen it",
}
"""Options of verbs that are no more: what has taken their place."""


def no_longer(error: Any) -> str | None:
    """That an option was there in an older version, and what has taken its place; None for any other mistake."""
    verb = error.ctx.command_path.partition(" ")[2]
    option = getattr(error, "option_name", None)
    instead = _NO_LONGER.get((verb, str(option)))
    return None if instead is None else f"no such option any more: {option}; {instead}"


def outside(value: object, low: float | None, high: float | None) -> str:
    """That a value below `low`, or else above `high`, is not taken."""
    if low is not None and float(str(value)) < low:
        return _must_be("at least", low, value)
    assert high is not None, "it lies between its bounds"
    return _must_be("at most", high, value)


def not_finite(value: object) -> str:
    """That infinity, or no number, is not taken."""
    return f"{_KINDS['finite_number']}, not {value}"


def in_own_words(error: Any) -> str | None:
    """What is wrong with the value behind a BadParameter of typer; None where its message is ours already."""
    errors = getattr(error.__cause__, "errors", None)
    if errors is not None:
        return _of_pydantic(errors()[0])
    message = str(getattr(error, "message", ""))
    if found := re.match(r"(\S+) is not in the range (?:x>=(\S+?)|(\S+)<=x<=(\S+?))\.$", message):
        value, least, low, high = found.groups()
        return outside(value, float(least or low), None if high is None else float(high))
    for kind, ours in _OF_CLICK:
        if found := re.match(rf"'(.*)' is not a valid {kind}\.$", message):
            return f"{_KINDS[ours]}, not {found.group(1)}"
    return None


def _of_pydantic(detail: dict[str, Any]) -> str:
    kind, value = detail["type"], detail["input"]
    if kind in _BOUNDS and math.isnan(float(value)):  # which some versions of pydantic compare with a bound
        kind = "finite_number"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return _must_be(words, detail["ctx"][bound], value)
    if kind in _KINDS:
        return f"{_KINDS[kind]}, not {value}"
    return str(detail["msg"]).removeprefix("Value error, ")


def _must_be(words: str, bound: float, value: object) -> str:
    shown = f"{bound:,.0f}" if float(bound).is_integer() else f"{bound:g}"
    return f"must be {words} {shown}, not {value}"
