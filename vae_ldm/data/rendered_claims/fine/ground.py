"""What lies behind and below a finely drawn claim, in the colors of rooms."""

import numpy as np

from vae_ldm.data.rendered_claims.canvas import Canvas, Color
from vae_ldm.data.rendered_claims.objects import choose, shade

GROUND_COLORS: dict[str, Color] = {
    "grey": (140, 142, 146),
    "white": (214, 213, 209),
    "blue": (116, 134, 160),
    "green": (128, 144, 126),
    "brown": (146, 122, 102),
    "beige": (204, 193, 172),
}
_FAR = 8.0  # beyond the edge of any picture up to 8 times longer than wide


def paint_fine_background(canvas: Canvas, rng: np.random.Generator) -> str:
    """Paint what is behind and below the object; returns the place in words."""
    name, color = choose(rng, GROUND_COLORS)
    ground = tuple((np.array(color) + rng.integers(-9, 10, size=3)).tolist())
    kind = ("table", "backdrop", "floor")[int(rng.integers(3))]
    horizon = rng.uniform(-0.15, 0.3)
    if kind == "backdrop":  # paper that hangs down and bends forward: no edge, only a slow change of light
        _fill(canvas, -_FAR, shade(ground, 1.06))
        _bands(canvas, shade(ground, 1.06), shade(ground, 0.88), horizon, horizon + 0.6, 12)
        return f"in front of a {name} backdrop"
    if kind == "table":
        wall = tuple((235 + c) // 2 for c in ground)
        _fill(canvas, -_FAR, wall)
        _bands(canvas, wall, shade(ground, 0.84), horizon - 0.02, horizon + 0.02, 5)  # out of focus
        _bands(canvas, shade(ground, 0.84), shade(ground, 0.95), horizon + 0.02, 1.1, 6)
        return f"on a {name} table"
    wood = np.array([148, 114, 82]) + rng.integers(-14, 15, size=3)
    _fill(canvas, -_FAR, tuple(wood.tolist()))
    vanishing = rng.uniform(-0.4, 0.4)
    lefts, tones = np.arange(-2.7, 2.7, 0.45), rng.uniform(0.9, 1.08, size=12)
    joints, grain = rng.uniform(-0.9, 1.0, size=12), rng.uniform(0.03, 0.4, size=(12, 3))
    for left, tone, joint, veins in zip(lefts, tones, joints, grain, strict=True):
        for x, width, shift in [(left, 0.436, 0.0), *((left + vein, 0.014, -0.06) for vein in veins)]:
            edges = [(x, -2.0), (x + width, -2.0), (x + width, 2.0), (x, 2.0)]
            strip = [(vanishing + u * (1.0 + 0.35 * v), v) for u, v in edges]
            canvas.backdrop(strip, tuple((wood * (tone + shift)).astype(int).tolist()))
        seam = [(left, joint), (left + 0.436, joint), (left + 0.436, joint + 0.014), (left, joint + 0.014)]
        canvas.backdrop(
            [(vanishing + u * (1.0 + 0.35 * v), v) for u, v in seam], tuple((wood * 0.72).astype(int).tolist())
        )
    return "on a wooden floor"


def _bands(canvas: Canvas, start: Color, end: Color, top: float, bottom: float, steps: int) -> None:
    """Fill what lies below `top` with colors from `start` to `end`, which is reached at `bottom`."""
    for y, color in zip(np.linspace(top, bottom, steps), np.linspace(start, end, steps + 1)[1:], strict=True):
        _fill(canvas, y, tuple(color.astype(int).tolist()))


def _fill(canvas: Canvas, top: float, color: Color) -> None:
    canvas.backdrop([(-_FAR, top), (_FAR, top), (_FAR, _FAR), (-_FAR, _FAR)], color)
