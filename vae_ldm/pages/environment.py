"""The Jinja environment of every page, and how pages write numbers."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from vae_ldm.text import counted, duration


def image_size(size: list[int]) -> str:
    """The size [height, width] in words."""
    height, width = size
    times = "\N{MULTIPLICATION SIGN}"
    return f"{height} {times} {width}" if height == width else f"{height} high {times} {width} wide"


def sizes_in_words(data: Mapping[str, Any]) -> str:
    """The size, or the sizes, of the pictures of a run; `data` is that of metrics.json."""
    sizes = [image_size(size) for size in data.get("image_sizes") or [data["image_size"]]]
    return f"{', '.join(sizes[:-1])} and {sizes[-1]}" if len(sizes) > 1 else sizes[0]


def number(value: float) -> str:
    """`value` to three or four significant digits: 0.0312, 25.77, 213.3, 64,000."""
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 0.001:
        return f"{value:.2e}"
    return f"{value:,.{4 if size < 0.1 else 3 if size < 1 else 2 if size < 100 else 1}f}"


def quantity(value: float, unit: str) -> str:
    """`value` and its unit, on one line."""
    return f"{number(float(value))}\N{NO-BREAK SPACE}{unit}" if unit else number(float(value))


def minute(created: str) -> str:
    """The moment of an ISO 8601 text in UTC, as "2026-11-26 12:31 UTC"; "" of "" (a run not evaluated yet)."""
    return datetime.fromisoformat(created).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if created else ""


def environment(package: str | None, *tools: Callable[..., Any]) -> Environment:
    """Jinja with the templates of `package` and of this one, escaping everything: captions and names come from users.

    `tools` are functions that the templates may call, each by its own name.
    """
    assert package is not None
    jinja = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("vae_ldm.pages", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    everywhere = (counted, duration, image_size, minute, number, quantity, sizes_in_words)
    jinja.globals.update({tool.__name__: tool for tool in (*everywhere, *tools)})
    return jinja
