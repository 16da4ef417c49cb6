"""The probability of a quantised latent, given its neighbours. It is made of whole numbers alone, for an entropy coder.

Encoder and decoder must agree on every probability to the last bit, whatever machine and library each runs on. So
neighbours enter as integers, what is fitted is stored as integers, and the one exponential is taken in decimal
arithmetic, which rounds it correctly everywhere.

Positions are coded from coarse to fine, as in an interlaced picture: every eighth of each side first, then the middle
of each square between four known ones, then the middles of its sides, and so on. All but the first have known
neighbours around them: their mean says where a symbol lies, and their spread says how surely.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import NamedTuple, Self

import numpy as np

_COARSEST = 8
_GRID = 8
"""A distribution's centre lies on this grid between two whole numbers."""
_NUM_SPREADS = 8
_NUM_SCALES = 40
_EXPONENTS = (1.0, 1.5, 2.0)
"""p of exp(-|x / scale|^p): Laplace's, Gauss's and one between them."""
_NUM_FORMS = _NUM_SCALES * len(_EXPONENTS)
_SPREADS = np.array([number.bit_length() for number in range(2 ** (_NUM_SPREADS - 1))], np.uint8)
"""The class of each spread: 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7, and so on; the last one for all above."""
_UNIT = 2**20
_ESCAPE_BITS = 32.0


class Pass(NamedTuple):
    """Positions that are coded together: every `stride`-th of each side, from (`top`, `left`)."""

    number: int
    top: int
    left: int
    stride: int
    neighbours: tuple[tuple[int, int], ...]
    """Where known ones lie, as (down, right)."""

    def of(self, symbols: np.ndarray) -> np.ndarray:
        """The symbols [C, h', w'] at these positions of [C, h, w]: a view, to be read or written."""
        return symbols[:, self.top :: self.stride, self.left :: self.stride]


def _interlaced() -> Iterator[Pass]:
    yield Pass(0, 0, 0, _COARSEST, ())
    number, stride = 1, _COARSEST
    while stride > 1:
        half = stride // 2
        corners = ((-half, -half), (-half, half), (half, -half), (half, half))
        sides = ((-half, 0), (half, 0), (0, -half), (0, half))
        for top, left, neighbours in ((half, half, corners), (0, half, sides), (half, 0, sides)):
            yield Pass(number, top, left, stride, neighbours)
            number += 1
        stride = half


PASSES = tuple(_interlaced())
"""The passes in order; together they visit each position once."""


class Surroundings(NamedTuple):
    """What the known neighbours of a pass's positions say, [C, h', w'] each."""

    total: np.ndarray
    number: np.ndarray
    """Number of neighbours within the picture, [h', w']; 1 where there are none, as if one of value 0 were there."""
    spread: np.ndarray
    """How far they lie apart, as one of `_NUM_SPREADS` classes."""


def surroundings(symbols: np.ndarray, place: Pass) -> Surroundings:
    """The surroundings of symbols int32 [C, h, w], of which those of earlier passes are known."""
    height, width = symbols.shape[1:]
    rows, columns = range(place.top, height, place.stride), range(place.left, width, place.stride)
    total = np.zeros((len(symbols), len(rows), len(columns)), np.int32)  # at most 4 * 2^20, and no product is 2^27
    count = np.zeros(total.shape[1:], np.int32)
    known = []
    for down, right in place.neighbours:
        here_rows, there_rows = _within(rows, down, height)
        here_columns, there_columns = _within(columns, right, width)
        here, values = (slice(None), here_rows, here_columns), symbols[:, there_rows, there_columns]
        total[here] += values
        count[here[1:]] += 1
        known.append((here, values))
    count = count.clip(min=1)
    apart = np.zeros_like(total)
    for here, values in known:
        apart[here] += np.abs(count[here[1:]] * values - total[here])
    apart //= count
    return Surroundings(total, count, _SPREADS[np.minimum(apart, len(_SPREADS) - 1, out=apart)])


def _within(positions: range, shift: int, length: int) -> tuple[slice, slice]:
    """Which of the positions, moved by `shift`, lie within `length`, and where those are then."""
    moved, step = positions.start + shift, positions.step
    first = max(0, -(moved // step))
    end = max(first, min(len(positions), -((moved - length) // step)))
    return slice(first, end), slice(moved + first * step, moved + end * step, step)


class Expectation(NamedTuple):
    """The whole number expected at each position of a pass, and a distribution around it."""

    base: np.ndarray
    distribution: np.ndarray
    """A number that `frequencies` knows."""


@dataclass(frozen=True, eq=False)
class SymbolModel:
    """Fitted once on the latents of some pictures at one step; a few bytes a channel."""

    weights: np.ndarray
    """uint8 [C, passes]: how far to trust the neighbours' mean, in eighths."""
    forms: np.ndarray
    """uint8 [C, passes, spreads]: which scale and exponent."""

    @property
    def num_channels(self) -> int:
        """The number of channels of the latents."""
        return len(self.weights)

    @staticmethod
    def shapes(num_channels: int) -> tuple[tuple[int, int], tuple[int, int, int]]:
        """The shapes of `weights` and of `forms`."""
        return (num_channels, len(PASSES)), (num_channels, len(PASSES), _NUM_SPREADS)

    @classmethod
    def stored(cls, weights: np.ndarray, forms: np.ndarray) -> Self:
        """The model of stored numbers. Raises ValueError where `fit` cannot have given one of them."""
        if weights.max(initial=0) > _GRID or forms.max(initial=0) >= _NUM_FORMS:
            raise ValueError("a model of symbols holds numbers that none has")
        return cls(weights, forms)

    @classmethod
    def fit(cls, pictures: Sequence[np.ndarray]) -> Self:
        """The model under which symbols int32 [C, h, w], each picture of its own size, take the fewest bits."""
        channels = len(pictures[0])
        weights = np.zeros((channels, len(PASSES)), np.uint8)
        histograms = np.zeros((channels, len(PASSES), _NUM_SPREADS, _GRID * _NUM_RESIDUALS))
        stacks = _stacked(pictures)
        for place in PASSES:
            seen = [_seen(stack, place, channels) for stack in stacks]
            total, number, spread, value = np.concatenate(seen, axis=2)
            if not value.size:
                continue
            for channel in range(channels):
                weight = _least_squares(total[channel] / number[channel], value[channel])
                weights[channel, place.number] = weight
                base, offset = _center(np.array(weight), total[channel], number[channel])
                residual = (value[channel] - base).clip(-_REACH - 1, _REACH + 1) + _REACH + 1
                index = (spread[channel] * _GRID + offset) * _NUM_RESIDUALS + residual
                counts = np.bincount(index, minlength=_NUM_SPREADS * _GRID * _NUM_RESIDUALS)
                histograms[channel, place.number] = counts.reshape(_NUM_SPREADS, -1)
        return cls(weights, _cheapest_forms(histograms))

    def expect(self, symbols: np.ndarray, place: Pass) -> Expectation:
        """What to expect at the positions of `place`, given symbols int32 [C, h, w] of earlier passes."""
        around = surroundings(symbols, place)
        weight = self.weights[:, place.number].astype(np.int32)[:, None, None]
        base, offset = _center(weight, around.total, around.number)
        channel = np.arange(self.num_channels)[:, None, None]
        form = self.forms[channel, place.number, around.spread].astype(np.int32)
        return Expectation(base, form * _GRID + offset)


def _stacked(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pictures [C, h, w] of equal size as one of many channels, [n * C, h, w]: what surrounds one knows no other."""
    shapes = dict.fromkeys(symbols.shape for symbols in pictures)
    return [np.concatenate([symbols for symbols in pictures if symbols.shape == shape]) for shape in shapes]


def _seen(stack: np.ndarray, place: Pass, channels: int) -> np.ndarray:
    """Total, number and spread of the neighbours, and the symbol itself, of a stack's positions: [4, C, positions]."""
    around, actual = surroundings(stack, place), place.of(stack)
    columns = (around.total, np.broadcast_to(around.number, actual.shape), around.spread, actual)
    found = np.stack([column.astype(np.int32) for column in columns])
    number, size = len(stack) // channels, actual[0].size
    return found.reshape(4, number, channels, size).swapaxes(1, 2).reshape(4, channels, number * size)


def _center(weight: np.ndarray, total: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """weight / 8 * total / count, as its nearest whole number and how many eighths it lies above that, plus 4."""
    eighths = (2 * weight * total + count) // (2 * count)
    base = (eighths + _GRID // 2) // _GRID
    return base, eighths - _GRID * base + _GRID // 2


def _least_squares(mean: np.ndarray, value: np.ndarray) -> int:
    energy = float(mean @ mean)
    return int(np.clip(np.rint(_GRID * float(mean @ value) / energy), 0, _GRID)) if energy else 0


def _scale(number: int) -> float:
    return 2.0 ** (number / 4 - 4)


def _reach(scale_number: int) -> int:
    """How far from the base a symbol has a probability of its own; what lies further is escaped."""
    return 4 + math.ceil(8 * _scale(scale_number))


_REACH = _reach(_NUM_SCALES - 1)
_NUM_RESIDUALS = 2 * _REACH + 3


@functools.cache
def _bits() -> np.ndarray:
    """Bits that each form takes for each residual at each offset, float32 [forms, _GRID * _NUM_RESIDUALS].

    They only choose forms, so floating point suffices.
    """
    bits = np.empty((_NUM_FORMS, _GRID, _NUM_RESIDUALS), np.float32)
    residual = np.arange(-_REACH - 1, _REACH + 2)
    for form in range(_NUM_FORMS):
        scale_number, exponent = divmod(form, len(_EXPONENTS))
        own = np.abs(residual) <= _reach(scale_number)
        for offset in range(_GRID):
            distance = np.abs(residual - (offset - _GRID // 2) / _GRID) / _scale(scale_number)
            frequency = np.where(own, 1 + np.floor(_UNIT * np.exp(-(distance ** _EXPONENTS[exponent]))), 0)
            whole = frequency.sum() + 1
            with np.errstate(divide="ignore"):
                bits[form, offset] = np.where(own, np.log2(whole / frequency), np.log2(whole) + _ESCAPE_BITS)
    return bits.reshape(_NUM_FORMS, -1)


def _cheapest_forms(histograms: np.ndarray) -> np.ndarray:
    """The form under which the symbols of each context take the fewest bits: uint8 [C, passes, spreads].

    A context that was seen a few times only, or never, leans on the others of its pass and channel.
    """
    forms = np.zeros(histograms.shape[:3], np.uint8)
    for channel, of_channel in enumerate(histograms):
        everywhere = of_channel.sum(axis=(0, 1))
        used = everywhere > 0
        bits = _bits()[:, used].astype(np.float64).T
        share = everywhere[used] / everywhere.sum()
        for number, counts in enumerate(of_channel[..., used]):
            here = counts.sum(axis=0)
            leaned = counts + 4 * here / max(here.sum(), 1) + share
            forms[channel, number] = (leaned @ bits).argmin(axis=1)
    return forms


@functools.lru_cache(maxsize=2**14)
def frequencies(distribution: int) -> np.ndarray:
    """Whole numbers, as float64 [2 * reach + 2], in proportion to the probabilities of the residuals from -reach to
    reach and, last, of an escape."""
    form, offset = divmod(distribution, _GRID)
    scale_number, exponent = divmod(form, len(_EXPONENTS))
    raise_to: Callable[[Decimal], Decimal] = (lambda x: x, lambda x: x * x.sqrt(), lambda x: x * x)[exponent]
    reach = _reach(scale_number)
    with localcontext(Context(prec=30)):
        scale = Decimal(1) / 16
        root = Decimal(2).sqrt().sqrt()
        for _ in range(scale_number):
            scale *= root
        eighths = (abs(_GRID * residual - offset + _GRID // 2) for residual in range(-reach, reach + 1))
        found = [1 + int((-raise_to(Decimal(distance) / _GRID / scale)).exp() * _UNIT) for distance in eighths]
    return np.array([*found, 1], np.float64)
