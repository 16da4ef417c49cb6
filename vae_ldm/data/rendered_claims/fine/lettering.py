"""Print as quadrilaterals [N, 4, 2]: letters made of strokes, lines too small to read, bar codes and square codes."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

LETTER_WIDTH = 0.62
_BAR_MODULES = np.array([1, 1, 1, 2, 2, 3, 4])  # how wide bars and gaps are, and how often
LETTER_PITCH = 0.86  # of a letter's height, the next letter's place

# polylines "x,y x,y ..." on a field from (0, 0) to (0.62, 1), y down
_POLYLINES = {
    "A": "0,1 .31,0 .62,1|.12,.66 .5,.66",
    "B": "0,0 0,1 .45,1 .6,.75 .45,.48 0,.48|.45,.48 .56,.24 .42,0 0,0",
    "C": ".6,.14 .4,0 .2,0 0,.3 0,.7 .2,1 .4,1 .6,.86",
    "E": ".6,0 0,0 0,1 .6,1|0,.48 .45,.48",
    "F": ".6,0 0,0 0,1|0,.48 .45,.48",
    "G": ".6,.14 .4,0 .2,0 0,.3 0,.7 .2,1 .4,1 .6,.8 .6,.55 .36,.55",
    "I": ".31,0 .31,1",
    "L": "0,0 0,1 .58,1",
    "M": "0,1 0,0 .31,.6 .62,0 .62,1",
    "N": "0,1 0,0 .62,1 .62,0",
    "O": ".2,0 .42,0 .62,.3 .62,.7 .42,1 .2,1 0,.7 0,.3 .2,0",
    "P": "0,1 0,0 .42,0 .6,.25 .42,.52 0,.52",
    "R": "0,1 0,0 .42,0 .6,.25 .42,.5 0,.5|.3,.5 .62,1",
    "S": ".58,.12 .4,0 .18,0 .02,.24 .18,.46 .45,.54 .6,.76 .42,1 .18,1 .02,.86",
    "T": "0,0 .62,0|.31,0 .31,1",
    "U": "0,0 0,.75 .18,1 .44,1 .62,.75 .62,0",
    "X": "0,0 .62,1|.62,0 0,1",
}


def _segments(polylines: str) -> np.ndarray:
    lines = [np.array([p.split(",") for p in line.split()], float) for line in polylines.split("|")]
    return np.concatenate([np.stack([line[:-1], line[1:]], axis=1) for line in lines])


_FINDER = np.ones((7, 7), np.int8)
_FINDER[1:6, 1:6] = 0
_FINDER[2:5, 2:5] = 1
_SEGMENTS = {letter: _segments(polylines) for letter, polylines in _POLYLINES.items()}


def word(text: str, left: float, top: float, height: float, *, weight: float = 0.17) -> np.ndarray:
    """The strokes of `text`, `weight` times the letters' height wide."""
    return np.array([left, top]) + height * _word_of_height_1(text, weight)


@lru_cache
def _word_of_height_1(text: str, weight: float) -> np.ndarray:
    at = [_SEGMENTS[letter] + np.array([LETTER_PITCH * k, 0]) for k, letter in enumerate(text)]
    return thick(np.concatenate(at), weight)


def word_width(text: str, height: float) -> float:
    """How wide `word` is."""
    return height * (LETTER_PITCH * (len(text) - 1) + LETTER_WIDTH)


def thick(segments: np.ndarray, width: float) -> np.ndarray:
    """Segments [N, 2, 2] as quadrilaterals that are `width` wide and as much longer."""
    way = segments[:, 1] - segments[:, 0]
    way = way / (np.linalg.norm(way, axis=-1, keepdims=True) + 1e-9) * width / 2
    side = np.stack([-way[:, 1], way[:, 0]], axis=-1)
    start, end = segments[:, 0] - way, segments[:, 1] + way
    return np.stack([start - side, end - side, end + side, start + side], axis=1)


def boxes(lefts: ArrayLike, tops: ArrayLike, rights: ArrayLike, bottoms: ArrayLike) -> np.ndarray:
    """Upright rectangles; the arguments are broadcast."""
    corners = np.empty((*np.broadcast(lefts, tops, rights, bottoms).shape, 4, 2))
    corners[..., 0, 0] = corners[..., 3, 0] = lefts
    corners[..., 1, 0] = corners[..., 2, 0] = rights
    corners[..., 0, 1] = corners[..., 1, 1] = tops
    corners[..., 2, 1] = corners[..., 3, 1] = bottoms
    return corners.reshape(-1, 4, 2)


def small_print(
    rng: np.random.Generator, left: float, tops: np.ndarray, rights: ArrayLike, heights: ArrayLike, *, legible: bool
) -> np.ndarray:
    """Lines of words in letters too small to read: high and low ticks, which get bowls and feet if `legible`."""
    heights = np.broadcast_to(heights, tops.shape)
    pitch = 0.62 * heights
    num_letters = np.broadcast_to((np.asarray(rights) - left) / pitch, tops.shape)
    kinds = rng.random((2, len(tops), max(2, math.ceil(num_letters.max()))))
    lines, places = np.nonzero((kinds[0] > 0.16) & (np.arange(kinds.shape[2]) < num_letters[:, None] - 0.75))
    height, step, kind = heights[lines], pitch[lines], kinds[1, lines, places]
    lefts, bottoms = left + step * places, (tops + heights)[lines]
    highs = bottoms - height * np.where(kind < 0.35, 1, 0.7)
    if not legible:
        return boxes(lefts, highs, lefts + 0.55 * step, bottoms)
    stems = boxes(lefts, highs, lefts + 0.24 * step, bottoms)
    thin, bowl = 0.14 * height, bottoms - height * np.where(kind * 7 % 1 < 0.5, 0.7, 0.4)
    tops_of_bowls = boxes(lefts, bowl, lefts + 0.72 * step, bowl + thin)
    right_sides = boxes(lefts + 0.52 * step, bowl, lefts + 0.74 * step, bottoms - thin * (kind * 13 % 1))
    feet = boxes(lefts, bottoms - thin, lefts + 0.7 * step, bottoms)
    return np.concatenate([stems, tops_of_bowls, right_sides[kind * 3 % 1 < 0.7], feet[kind * 5 % 1 < 0.6]])


def bar_code(
    rng: np.random.Generator, left: float, top: float, right: float, bottom: float, num_bars: int
) -> np.ndarray:
    """Bars and gaps of one to four modules, from edge to edge."""
    modules = _BAR_MODULES[rng.integers(len(_BAR_MODULES), size=2 * num_bars - 1)]
    edges = left + (right - left) * np.concatenate([[0], np.cumsum(modules)]) / modules.sum()
    return boxes(edges[:-1:2], top, edges[1::2], bottom)


def square_code(rng: np.random.Generator, left: float, top: float, side: float, modules: int = 17) -> np.ndarray:
    """A square of dark and light modules with three finder squares; neighbors in a row are one rectangle."""
    framed = np.zeros((modules, modules + 2), np.int8)  # a light module at both ends of each row
    dark = framed[:, 1:-1]
    dark[:] = rng.random((modules, modules)) < 0.5
    dark[:7, :7] = dark[:7, -7:] = dark[-7:, :7] = _FINDER
    dark[7, :8] = dark[:8, 7] = dark[7, -8:] = dark[:8, -8] = dark[-8, :8] = dark[-8:, 7] = 0
    change = np.diff(framed, axis=1)
    (rows, starts), (_, ends) = np.nonzero(change == 1), np.nonzero(change == -1)
    step = side / modules
    return boxes(left + step * starts, top + step * rows, left + step * ends, top + step * (rows + 1))
