"""A page to draw figures on: text, patches, lines and axes. Coordinates are pixels of the finished picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vae_ldm.lesson.patches import SIDE, Array

INK, SOFT, FAINT, PAPER = "#1b1f24", "#59636e", "#d5dae0", "#ffffff"
CHOSEN = "#fff6da"  # behind what is singled out
TITLE, HEADING, BODY, SMALL = 28, 20, 16, 14
_SUPERSAMPLING = 2  # Pillow's lines and circles have hard edges; drawing larger and shrinking softens them

Point = tuple[float, float]


class FigureCanvas:
    """A white page. Colours are hex strings; `anchor` is Pillow's, two letters: l, m, r and t (a), m, b (s)."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._page = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING), PAPER)
        self._draw = ImageDraw.Draw(self._page)

    def picture(self) -> Image.Image:
        """The finished page, RGB."""
        return self._page.resize((self.width, self.height), Image.Resampling.LANCZOS)

    def text(
        self, at: Point, text: str, *, size: int = BODY, colour: str = INK, anchor: str = "lm", bold: bool = False
    ) -> None:
        """One line of text. Pillow's own font has no bold: its strokes are widened."""
        self._draw.text(
            _scaled(at),
            text,
            fill=colour,
            font=ImageFont.load_default(size * _SUPERSAMPLING),
            anchor=anchor,
            stroke_width=_SUPERSAMPLING * 0.35 if bold else 0,
        )

    def lines(self, at: Point, lines: Sequence[str], *, size: int = BODY, colour: str = INK) -> None:
        """Lines of text below each other, left-aligned, the first one's middle at `at`."""
        for number, line in enumerate(lines):
            self.text((at[0], at[1] + number * size * 1.45), line, size=size, colour=colour)

    def paragraph(self, at: Point, text: str, width: float, *, size: int = SMALL, colour: str = SOFT) -> None:
        """`text` in lines of at most `width`, the first one's middle at `at`."""
        font = ImageFont.load_default(size * _SUPERSAMPLING)
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width * _SUPERSAMPLING:
                lines.append(word)
            else:
                lines[-1] = longer
        self.lines(at, lines, size=size, colour=colour)

    def patch(self, at: Point, pixels: Array, cell: float, *, frame: str = FAINT, frame_width: float = 1) -> None:
        """A patch [25] with its middle at `at`, `cell` pixels for each of its own, inside a frame."""
        half = cell * SIDE / 2
        outer = half + frame_width
        self.rectangle((at[0] - outer, at[1] - outer), (at[0] + outer, at[1] + outer), fill=frame)
        side = round(2 * half * _SUPERSAMPLING)
        grey = Image.fromarray(np.round(255 * pixels.reshape(SIDE, SIDE)).astype(np.uint8))
        enlarged = grey.resize((side, side), Image.Resampling.NEAREST)
        left, top = _scaled((at[0] - half, at[1] - half))
        self._page.paste(enlarged, (round(left), round(top)))

    def rectangle(self, start: Point, end: Point, *, fill: str | None = None, outline: str | None = None) -> None:
        self._draw.rectangle([_scaled(start), _scaled(end)], fill=fill, outline=outline, width=_SUPERSAMPLING)

    def line(self, points: Sequence[Point], *, colour: str = INK, width: float = 1) -> None:
        self._draw.line(
            [_scaled(point) for point in points], fill=colour, width=round(width * _SUPERSAMPLING), joint="curve"
        )

    def dot(self, at: Point, radius: float, *, colour: str = INK, outline: str | None = None) -> None:
        x, y = at
        box = [_scaled((x - radius, y - radius)), _scaled((x + radius, y + radius))]
        self._draw.ellipse(box, fill=colour, outline=outline, width=_SUPERSAMPLING)

    def badge(self, at: Point, text: str) -> None:
        """A number in a dark circle."""
        self.dot(at, 9, colour=INK, outline=PAPER)
        self.text(at, text, size=13, colour=PAPER, anchor="mm", bold=True)

    def ring(self, centre: Point, radii: Point, *, colour: str, width: float = 1.5, dashed: bool = False) -> None:
        """An ellipse with axes along the page's."""
        angles = np.linspace(0, 2 * math.pi, 145)
        points = [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]
        if not dashed:
            self.line(points, colour=colour, width=width)
            return
        for start in range(0, len(points) - 1, 4):
            self.line(points[start : start + 3], colour=colour, width=width)


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` laid on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers within the range, about so many."""
        raw = (self.high - self.low) / about
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _scaled(point: Point) -> Point:
    return point[0] * _SUPERSAMPLING, point[1] * _SUPERSAMPLING
