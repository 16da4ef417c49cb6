"""Grey patches of 5x5 pixels, clean and damaged, which look as if they were cut out of photos of parcels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIDE = 5
NUM_PIXELS = SIDE * SIDE
KINDS = ("paper", "print", "edge", "crack", "dent")
DAMAGED_KINDS = ("crack", "dent")
MIN_STRENGTH = 0.5
NUM_LEVELS = 5
CAMERA_NOISE = 0.05  # standard deviation of a pixel; 0 is black, 1 is white

# Row and column of each pixel, counted from the middle one.
_ROWS, _COLUMNS = np.mgrid[-2.0:3.0, -2.0:3.0]


@dataclass(frozen=True, eq=False)
class Patches:
    """`pixels` [N, 25] in [0, 1], row by row from the top left; `kinds` [N] are indices into KINDS."""

    pixels: Array
    kinds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)


def draw_patch(kind: str, *, place: float, strength: float) -> Array:
    """One patch [25] without noise, whose content lies at `place` in [-1, 1] and is as dark as `strength` in [0, 1].

    A patch has these two degrees of freedom and its kind, however many pixels it has. Paper has no place.
    """
    if kind == "paper":  # a blank sheet in the light or in the shade
        pixels = np.full((SIDE, SIDE), 0.4 + 0.6 * strength)
    elif kind == "print":  # two lines of print on a label
        distance = np.abs(_ROWS - 0.5 * place) - 1.25
        pixels = 0.95 - 0.9 * strength * np.exp(-2 * distance**2)
    elif kind == "edge":  # the edge of a parcel, lit at the left
        pixels = 0.95 - 0.9 * strength / (1 + np.exp(-3 * (_COLUMNS - 1.2 * place)))
    elif kind == "crack":  # a crack in cardboard, from the lower left to the upper right
        distance = (_COLUMNS + _ROWS) / np.sqrt(2) - 1.2 * place
        pixels = 0.5 - 0.45 * strength * np.exp(-(distance**2))
    else:  # a dent in cardboard, dark in the middle, with a bright rim
        squared = (_COLUMNS - 0.7 * place) ** 2 + (_ROWS - 0.7 * place) ** 2
        pixels = 0.5 + strength * (0.25 * squared - 0.475) * np.exp(-squared / 2.5)
    return pixels.ravel()


def draw_patches(count: int, *, seed: int, noise: float = CAMERA_NOISE, only_kinds: Sequence[str] = KINDS) -> Patches:
    """`count` patches: each kind equally often, place and strength (from 0.5) at random, then the camera's noise.

    With `noise` 0 they are the patches of the same seed before the camera's noise is added.
    """
    rng = np.random.default_rng(seed)
    kinds = np.array([KINDS.index(kind) for kind in only_kinds])[rng.permutation(np.arange(count) % len(only_kinds))]
    places, strengths = rng.uniform(-1, 1, count), rng.uniform(MIN_STRENGTH, 1, count)
    return Patches(add_noise(_draw_clean(kinds, places, strengths), noise, rng), kinds)


def _draw_clean(kinds: NDArray[np.int64], places: Array, strengths: Array) -> Array:
    return np.stack(
        [
            draw_patch(KINDS[kind], place=place, strength=strength)
            for kind, place, strength in zip(kinds, places, strengths, strict=True)
        ]
    )


@dataclass(frozen=True, eq=False)
class FactorGrid:
    """`pixels` [N, 25] of clean patches in which every combination of factors occurs equally often.

    `factors` names what the patches were drawn from: int [N] each, the level of the factor, from 0 upwards.
    """

    pixels: Array
    factors: dict[str, NDArray[np.int64]]


def draw_factor_grid(only_kinds: Sequence[str] = KINDS, *, values_per_level: int = 4) -> FactorGrid:
    """All combinations of kind, place and strength, the last two in NUM_LEVELS levels of a few values each.

    A factor that does not vary is left out: the kind, where there is only one.
    """
    num_values = NUM_LEVELS * values_per_level
    kinds, places, strengths = (values.ravel() for values in np.indices((len(only_kinds), num_values, num_values)))
    pixels = _draw_clean(
        np.array([KINDS.index(kind) for kind in only_kinds])[kinds],
        (places + 0.5) / num_values * 2 - 1,
        MIN_STRENGTH + (1 - MIN_STRENGTH) * (strengths + 0.5) / num_values,
    )
    factors = {"kind": kinds} if len(only_kinds) > 1 else {}
    return FactorGrid(
        pixels, factors | {"place": places // values_per_level, "strength": strengths // values_per_level}
    )


def add_noise(pixels: Array, standard_deviation: float, rng: np.random.Generator) -> Array:
    """`pixels` with Gaussian noise, same shape, back in [0, 1]."""
    return (pixels + standard_deviation * rng.standard_normal(pixels.shape)).clip(0, 1)


def four_patches() -> Patches:
    """The patches that the lesson follows by number, to two decimals: 1 print, 2 edge (clean), 3 crack, 4 dent."""
    settings = {"print": (0.4, 0.9), "edge": (-0.3, 0.8), "crack": (0.1, 0.9), "dent": (-0.2, 0.9)}
    pixels = [draw_patch(kind, place=place, strength=strength) for kind, (place, strength) in settings.items()]
    return Patches(np.round(pixels, 2), np.array([KINDS.index(kind) for kind in settings]))
