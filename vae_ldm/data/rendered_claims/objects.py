"""The four things a claim is about, each painted in its own coordinates within about [-1, 1]."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from vae_ldm.data.rendered_claims.canvas import Canvas, Color, Points, ellipse, rounded_rectangle
from vae_ldm.data.rendered_claims.damage import Box

T = TypeVar("T")

TIN_HALF_WIDTH = 0.60
PARCEL_FACE: Box = (-0.84, -0.42, 0.58, 0.78)

FRAME_COLORS: dict[str, Color] = {"black": (38, 38, 44), "silver": (176, 180, 188), "grey": (96, 99, 108)}
SCREEN_COLORS: dict[str, tuple[Color, Color]] = {
    "blue": ((34, 70, 150), (70, 140, 205)),
    "purple": ((70, 40, 125), (150, 85, 165)),
    "green": ((18, 92, 88), (60, 150, 110)),
    "orange": ((150, 62, 40), (215, 130, 60)),
}
BOX_COLORS: dict[str, Color] = {"brown": (178, 130, 82), "tan": (205, 164, 112)}
TAPE_COLORS: dict[str, Color] = {"red": (196, 60, 50), "blue": (60, 100, 180), "clear": (226, 206, 166)}
TIN_COLORS: dict[str, Color] = {
    "red": (196, 42, 40),
    "green": (38, 128, 66),
    "blue": (36, 84, 172),
    "yellow": (228, 172, 32),
    "orange": (222, 104, 30),
}


# glass breaks bright; card and metal break dark
GLASS_CRACK: tuple[Color, Color] = ((246, 250, 255), (8, 10, 16))
DARK_CRACK: tuple[Color, Color] = ((24, 16, 12), (250, 238, 220))


class Item(NamedTuple):
    """An object's painter, and what the scene must know of the object."""

    paint: Callable[[Canvas, np.random.Generator], tuple[str, str]]
    """Paints it and returns its color and a detail ("with a blue screen") in words, "" where there is none to tell."""
    face: Box
    """The area that damage is drawn in."""
    max_turn: float
    """The largest turn in degrees."""
    crack: tuple[Color, Color] = DARK_CRACK
    """Colors of a crack's core and rim."""
    stands: bool = True
    """Whether its shadow lies on the ground behind it, or close around it because it lies flat."""
    is_round: bool = False
    """Whether it is lit as an upright cylinder of half width `TIN_HALF_WIDTH`."""
    may_be_mirrored: bool = True
    """Whether its print, if it has any, stays legible in a mirrored pose."""


def paint_bezel(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """A laptop's opened lid: frame, camera, screen with hills, and the edge of the keyboard deck below."""
    name, frame = choose(rng, FRAME_COLORS)
    screen_name, (sky, hill) = choose(rng, SCREEN_COLORS)
    deck = shade(frame, 0.8)
    canvas.silhouette([(-0.84, 0.60), (0.84, 0.60), (1.0, 0.84), (-1.0, 0.84)], deck)
    canvas.polygon([(-0.72, 0.63), (0.72, 0.63), (0.79, 0.74), (-0.79, 0.74)], shade(deck, 0.62))
    canvas.silhouette(rounded_rectangle(-0.92, -0.76, 0.92, 0.62, 0.09), frame)
    canvas.polygon(rounded_rectangle(-0.885, -0.73, 0.885, 0.59, 0.07), shade(frame, 1.18))
    canvas.polygon(ellipse((0.0, -0.665), (0.03, 0.03)), (20, 20, 26))
    canvas.rectangle(-0.78, -0.60, 0.78, 0.46, shade(sky, 0.5))
    canvas.rectangle(-0.75, -0.57, 0.75, 0.43, sky)
    crest = rng.uniform(-0.2, 0.2, size=3)
    xs = np.linspace(-0.75, 0.75, 13)
    for level, (height, tone) in enumerate([(-0.08, 0.72), (0.14, 1.0)]):
        ys = height + 0.14 * np.sin(4.5 * xs + 9 * crest[level]) + crest[2] * xs * (1 - 2 * level)
        ridge = np.stack([xs, ys.clip(-0.57, 0.43)], axis=-1)
        canvas.polygon(np.concatenate([ridge, [(0.75, 0.43), (-0.75, 0.43)]]), shade(hill, tone))
    glare = rng.uniform(-0.5, 0.3)
    band = [(glare, -0.57), (glare + 0.36, -0.57), (glare + 0.08, 0.43), (glare - 0.28, 0.43)]
    canvas.polygon(band, (255, 255, 255, 26))
    return name, f"with {article(screen_name)} screen"


def paint_parcel(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """A cardboard box seen from its front, with its top and one side visible and tape over the flaps."""
    name, card = choose(rng, BOX_COLORS)
    tape_name, tape = choose(rng, TAPE_COLORS)
    left, top, right, bottom = PARCEL_FACE
    deep = np.array([rng.uniform(0.22, 0.34), -rng.uniform(0.24, 0.34)])
    a, b, c = np.array([left, top]), np.array([right, top]), np.array([right, bottom])
    canvas.silhouette(np.stack([a, b, b + deep, a + deep]), shade(card, 1.2))
    canvas.silhouette(np.stack([b, c, c + deep, b + deep]), shade(card, 0.66))
    canvas.silhouette(np.stack([a, b, c, np.array([left, bottom])]), card)
    middle = (left + right) / 2
    m, half = np.array([middle, top]), np.array([0.115, 0])
    canvas.polygon(np.stack([m - half, m + half, m + half + deep, m - half + deep]), shade(tape, 1.12))
    canvas.rectangle(middle - 0.115, top, middle + 0.115, top + 0.34, tape)
    canvas.rectangle(left, top, right, top + 0.025, (255, 240, 215, 130))  # light on the upper edge
    for x in (left + 0.16, left + 0.34):  # "this way up"
        canvas.polygon([(x, bottom - 0.40), (x + 0.075, bottom - 0.28), (x - 0.075, bottom - 0.28)], shade(card, 0.45))
        canvas.rectangle(x - 0.025, bottom - 0.28, x + 0.025, bottom - 0.12, shade(card, 0.45))
    return name, f"with {tape_name} tape"


def paint_tin(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """A food can: metal rims, a ringed lid, a colored wrap with a pale band and an emblem."""
    name, wrap = choose(rng, TIN_COLORS)
    steel: Color = (190, 194, 200)
    canvas.silhouette(barrel(-0.74, 0.80), steel)
    canvas.polygon(barrel(-0.60, 0.70), wrap)
    height = rng.uniform(-0.12, 0.2)
    canvas.polygon(barrel(height, height + 0.28), (234, 216, 176))
    canvas.polygon(ellipse((0, height + 0.30), (0.17, 0.17)), shade(wrap, 0.8))
    canvas.polygon(ellipse((0, height + 0.30), (0.09, 0.09)), (234, 216, 176))
    canvas.silhouette(ellipse((0, -0.74), (TIN_HALF_WIDTH, 0.17)), (228, 231, 235))
    canvas.polygon(ellipse((0, -0.735), (0.53, 0.135)), (128, 132, 140))
    canvas.polygon(ellipse((0, -0.72), (0.47, 0.105)), (188, 192, 198))
    canvas.polygon(ellipse((0, -0.715), (0.28, 0.055)), (160, 164, 170))
    return name, ""


def paint_label(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """White paper with a bar code, a framed square, and the lines of an address."""
    ink: Color = (26, 26, 32)
    canvas.silhouette(rounded_rectangle(-0.90, -0.66, 0.90, 0.66, 0.05), (246, 246, 242))
    canvas.rectangle(-0.82, -0.02, 0.82, 0.02, ink)
    widths = rng.uniform(0.08, 0.18, size=7)
    gaps = rng.uniform(0.09, 0.13, size=7)
    rights = np.cumsum(widths + gaps)
    scale = 1.56 / rights[-1]
    for right, width in zip(rights * scale, widths * scale, strict=True):
        canvas.rectangle(-0.78 + right - width, 0.12, -0.78 + right, 0.56, ink)
    canvas.rectangle(0.34, -0.56, 0.80, -0.12, ink)
    canvas.rectangle(0.40, -0.50, 0.74, -0.18, (246, 246, 242))
    canvas.polygon(ellipse((0.57, -0.34), (0.10, 0.10)), choose(rng, TAPE_COLORS)[1])
    for line, y in enumerate((-0.56, -0.40, -0.24)):
        canvas.rectangle(-0.78, y, -0.78 + (0.9 if line == 0 else rng.uniform(0.5, 1.0)), y + 0.085, shade(ink, 2.2))
    return "", ""


ITEMS: dict[str, Item] = {
    "laptop bezel": Item(paint_bezel, face=(-0.80, -0.66, 0.80, 0.52), max_turn=8, crack=GLASS_CRACK),
    "parcel": Item(paint_parcel, face=PARCEL_FACE, max_turn=7),
    "tin": Item(paint_tin, face=(-0.56, -0.52, 0.56, 0.74), max_turn=9, is_round=True),
    "shipping label": Item(paint_label, face=(-0.90, -0.66, 0.90, 0.66), max_turn=24, stands=False),
}


def choose(rng: np.random.Generator, options: dict[str, T]) -> tuple[str, T]:
    """One of the named options, and its name."""
    name = list(options)[int(rng.integers(len(options)))]
    return name, options[name]


def barrel(top: float, bottom: float) -> Points:
    """The part of an upright cylinder between two heights: [N, 2]."""
    radii = (TIN_HALF_WIDTH, 0.17)
    return np.concatenate([ellipse((0, bottom), radii, 0, 180), ellipse((0, top), radii, 180, 0)])


def shade(color: Color, factor: float) -> Color:
    return tuple(min(255, round(c * factor)) for c in color)


def article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
