"""Where damage lies: fields of numbers over a picture, float64 [H, W], for a picture of any size."""

import numpy as np
from PIL import Image, ImageDraw

_DRAWN_LARGER = 4


def rectangle(rng: np.random.Generator, size: tuple[int, int], share: float) -> tuple[slice, slice]:
    """Rows and columns of a rectangle that holds about `share` of the picture, its sides up to 3 : 1."""
    ratio = 3 ** rng.uniform(-0.5, 0.5)
    height, width = (
        min(side, max(1, round(side * (share * factor) ** 0.5)))
        for side, factor in zip(size, (ratio, 1 / ratio), strict=True)
    )
    top, left = rng.integers(0, size[0] - height + 1), rng.integers(0, size[1] - width + 1)
    return slice(top, top + height), slice(left, left + width)


def perlin_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Gradient noise (Perlin 1985) of `cells` down and across, about in [-1, 1], with a mean near 0."""
    angles = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    gradients = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    places = [(np.arange(side) + 0.5) / side * count for side, count in zip(size, cells, strict=True)]
    corners = [place.astype(int) for place in places]
    offsets = [place - corner for place, corner in zip(places, corners, strict=True)]
    # Perlin's later fade, whose first and second derivatives are 0 at both ends.
    fade_down, fade_across = (offset**3 * (offset * (6 * offset - 15) + 10) for offset in offsets)

    def toward(down: int, across: int) -> np.ndarray:
        gradient = gradients[corners[0][:, None] + down, corners[1] + across]
        return gradient[..., 0] * (offsets[0][:, None] - down) + gradient[..., 1] * (offsets[1] - across)

    upper = toward(0, 0) + (toward(0, 1) - toward(0, 0)) * fade_across
    lower = toward(1, 0) + (toward(1, 1) - toward(1, 0)) * fade_across
    return (upper + (lower - upper) * fade_down[:, None]) * 2**0.5


def perlin_mask(rng: np.random.Generator, size: tuple[int, int], share: float) -> np.ndarray:
    """Ragged islands, 1 inside and 0 outside, that hold `share` of the picture (DRAEM, section 3.3)."""
    cells = tuple(int(2 ** rng.integers(1, 5)) for _ in size)
    noise = perlin_noise(rng, size, (cells[0], cells[1]))
    return (noise >= np.quantile(noise, 1 - share)).astype(float)


def blob(rng: np.random.Generator, size: tuple[int, int], share: float, softness: float) -> np.ndarray:
    """One tilted ellipse that holds about `share` of the picture; its edge fades within `softness` radii."""
    ratio, tilt = 2.5 ** rng.uniform(-0.5, 0.5), rng.uniform(0, np.pi)
    radius = max((share * size[0] * size[1] / np.pi) ** 0.5, 1)
    down, across = _around(size, (rng.uniform(0, size[0]), rng.uniform(0, size[1])))
    along = (across * np.cos(tilt) + down * np.sin(tilt)) / (radius * ratio**0.5)
    beside = (down * np.cos(tilt) - across * np.sin(tilt)) / (radius / ratio**0.5)
    return _falling(np.hypot(along, beside) - 1, softness)


def band(rng: np.random.Generator, size: tuple[int, int], share: float, softness: float) -> np.ndarray:
    """A straight band across the picture that is `share` of its extent wide, upright, level or oblique."""
    tilt = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    down, across = _around(size, (size[0] / 2, size[1] / 2))
    beside = down * np.cos(tilt) + across * np.sin(tilt)
    extent = float(np.ptp(beside)) + 1
    center = rng.uniform(beside.min(), beside.max())
    half = max(share * extent / 2, 0.5)
    return _falling((np.abs(beside - center) - half) / half, softness)


def strokes(rng: np.random.Generator, size: tuple[int, int], length: float, width: float, count: int) -> np.ndarray:
    """`count` bent lines, 1 inside, with smooth edges; `length` and `width` are in diagonals of the picture."""
    diagonal = float(np.hypot(*size))
    drawn = Image.new("L", (size[1] * _DRAWN_LARGER, size[0] * _DRAWN_LARGER))
    pen = ImageDraw.Draw(drawn)
    for _ in range(count):
        start = rng.uniform(0, 1, 2) * (size[1], size[0])
        turn = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, 6))
        steps = np.stack([np.cos(turn), np.sin(turn)], axis=1) * length * diagonal / len(turn)
        points = (np.concatenate([[start], start + np.cumsum(steps, axis=0)]) * _DRAWN_LARGER).tolist()
        thick = max(1, round(width * diagonal * _DRAWN_LARGER * rng.uniform(0.6, 1.4)))
        pen.line([(x, y) for x, y in points], fill=255, width=thick, joint="curve")
    return np.asarray(drawn.reduce(_DRAWN_LARGER), dtype=float) / 255


def _around(size: tuple[int, int], center: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels down and across each pixel's middle lies from `center`."""
    down, across = np.mgrid[: size[0], : size[1]] + 0.5
    return down - center[0], across - center[1]


def _falling(beyond: np.ndarray, softness: float) -> np.ndarray:
    """1 where `beyond` is 0 or less, then smoothly down to 0 at `softness`; with a softness of 0 a sharp edge."""
    if softness <= 0:
        return (beyond <= 0).astype(float)
    along = (1 - beyond / softness).clip(0, 1)
    return along * along * (3 - 2 * along)
