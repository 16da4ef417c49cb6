"""A few measured points as the geometry of a small chart: lines through them, over a number that doubles."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vae_ldm.pages.curves import BOTTOM, LEFT, RIGHT, TOP, Axis, Chart, Line, point, short_number, svg_path


class Point(NamedTuple):
    """A value at a place, with the ends of its interval where it has one."""

    at: int
    value: float
    low: float | None = None
    high: float | None = None


def point_chart(term: str, unit: str, lines: Mapping[str, Sequence[Point]], *, over: str, last_at: str = "{}") -> Chart:
    """The chart of lines through points, over places above 0 on a logarithmic axis, each with a tick of its own."""
    points = [each for line in lines.values() for each in line]
    low, high = min(each.value for each in points), max(each.value for each in points)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    y = Axis(low - room, high + room, BOTTOM, TOP)
    places = sorted({each.at for each in points})
    x = Axis(places[0] / 1.1, places[-1] * 1.1, LEFT, RIGHT, logarithmic=True)
    drawn = []
    for name, line in lines.items():
        across, up = x(np.array([each.at for each in line], float)), y(np.array([each.value for each in line]))
        dots = [point(a, b) for a, b in zip(across, up, strict=True)]
        drawn.append(Line(name, svg_path(across, up), "", dots, line[-1].value, line[-1].at))
    return Chart(
        term=term,
        unit=unit,
        logarithmic=False,
        x_ticks=[(round(float(x(np.array(float(place)))), 1), str(place)) for place in places],
        y_ticks=y.ticks(),
        lines=drawn,
        hovers=_hovers(x, places, lines, last_at),
        num_not_finite=0,
        over=over,
        last_at=last_at,
    )


def _hovers(
    x: Axis, places: Sequence[int], lines: Mapping[str, Sequence[Point]], at: str
) -> list[tuple[float, float, str]]:
    """Left end, width and text of a strip around each place."""
    centres = x(np.array(places, float))
    edges = np.concatenate([[LEFT], (centres[1:] + centres[:-1]) / 2, [RIGHT]])
    strips = []
    for place, start, end in zip(places, edges[:-1], edges[1:], strict=True):
        told = [at.format(place)]
        told += [_in_words(name, each) for name, line in lines.items() for each in line if each.at == place]
        strips.append((round(float(start), 1), round(float(end - start), 1), "\n".join(told)))
    return strips


def _in_words(name: str, measured: Point) -> str:
    said = f"{name} {short_number(measured.value)}"
    if measured.low is None or measured.high is None:
        return said
    return f"{said} [{short_number(measured.low)}, {short_number(measured.high)}]"
