"""Print: letters made of strokes, lines too small to read, bar codes and square codes, all as quadrilaterals [N, 4, 2]."""

import numpy as np

LETTER_WIDTH = 0.62
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


_SEGMENTS = {letter: _segments(polylines) for letter, polylines in _POLYLINES.items()}


def word(text: str, left: float, top: float, height: float, *, weight: float = 0.17) -> np.ndarray:
    """The strokes of `text`, `weight` times the letters' height wide."""
    at = [_SEGMENTS[letter] + np.array([LETTER_PITCH * k, 0]) for k, letter in enumerate(text)]
    return thick(np.array([left, top]) + height * np.concatenate(at), weight * height)


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


def boxes(lefts: np.ndarray, tops: np.ndarray, rights: np.ndarray, bottoms: np.ndarray) -> np.ndarray:
    """Upright rectangles; the arguments are broadcast."""
    left, top, right, bottom = np.broadcast_arrays(lefts, tops, rights, bottoms)
    return np.stack([left, top, right, top, right, bottom, left, bottom], axis=-1).reshape(-1, 4, 2)


def small_print(rng: np.random.Generator, left: float, top: float, right: float, height: float) -> np.ndarray:
    """A line of words whose letters are too small to be more than ticks, high and low, with gaps between the words."""
    pitch = 0.62 * height
    num_letters = max(2, int((right - left) / pitch))
    drawn = rng.random((2, num_letters))
    (places,) = np.nonzero(drawn[0] > 0.16)
    lefts = left + pitch * places
    tops = top + height * np.where(drawn[1, places] < 0.45, 0, 0.3)
    return boxes(lefts, tops, lefts + 0.66 * pitch, np.asarray(top + height))


def bar_code(
    rng: np.random.Generator, left: float, top: float, right: float, bottom: float, num_bars: int
) -> np.ndarray:
    """Bars and gaps of one to four modules, from edge to edge."""
    modules = rng.choice([1, 1, 1, 2, 2, 3, 4], size=2 * num_bars - 1)
    edges = left + (right - left) * np.concatenate([[0], np.cumsum(modules)]) / modules.sum()
    return boxes(edges[:-1:2], np.asarray(top), edges[1::2], np.asarray(bottom))


def square_code(rng: np.random.Generator, left: float, top: float, side: float, modules: int = 17) -> np.ndarray:
    """A square of dark and light modules with three finder squares; neighbors in a row are one rectangle."""
    dark = rng.random((modules, modules)) < 0.5
    finder = np.ones((7, 7), bool)
    finder[1:6, 1:6] = False
    finder[2:5, 2:5] = True
    for rows, columns in ((slice(0, 7), slice(0, 7)), (slice(0, 7), slice(-7, None)), (slice(-7, None), slice(0, 7))):
        dark[rows, columns] = finder
    dark[7, :8] = dark[:8, 7] = dark[7, -8:] = dark[:8, -8] = dark[-8, :8] = dark[-8:, 7] = False
    change = np.diff(np.pad(dark, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(change == 1), np.nonzero(change == -1)
    step = side / modules
    return boxes(left + step * starts, top + step * rows, left + step * ends, top + step * (rows + 1))
