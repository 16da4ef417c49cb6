"""What lies behind and below a finely drawn claim, in the colors of rooms."""

import numpy as np

from vae_ldm.data.rendered_claims.canvas import Canvas, Color
from vae_ldm.data.rendered_claims.fine.lettering import boxes
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
    ground = tuple((np.array(color) * rng.uniform(0.9, 1.06) + rng.integers(-4, 5, size=3)).astype(int).tolist())
    kind = ("table", "backdrop", "floor")[int(rng.integers(3))]
    horizon = rng.uniform(-0.15, 0.3)
    if kind == "backdrop":  # paper that hangs down and bends forward: no edge, only a slow change of light
        _fill(canvas, -_FAR, shade(ground, 1.06))
        _bands(canvas, shade(ground, 1.06), shade(ground, 0.88), horizon, horizon + 0.6, 9)
        return f"in front of a {name} backdrop"
    if kind == "table":
        wall = tuple((235 + c) // 2 for c in ground)
        _fill(canvas, -_FAR, wall)
        _bands(canvas, wall, shade(ground, 0.84), horizon - 0.02, horizon + 0.02, 4)  # out of focus
        _bands(canvas, shade(ground, 0.84), shade(ground, 0.95), horizon + 0.02, 1.1, 5)
        return f"on a {name} table"
    wood = np.array([148, 114, 82]) * rng.uniform(0.85, 1.12) + rng.integers(-5, 6, size=3)
    _fill(canvas, -_FAR, tuple(wood.astype(int).tolist()))
    vanishing = rng.uniform(-0.4, 0.4)
    tones = rng.uniform(0.9, 1.08, size=12)
    joints, grain = rng.uniform(-0.9, 1.0, size=12), rng.uniform(0.03, 0.4, size=(2, 12))
    lefts = np.arange(12) * 0.45 - 2.7
    strips = [
        boxes(lefts, -2.0, lefts + 0.436, 2.0),
        *(boxes(lefts + veins, -2.0, lefts + veins + 0.013, 2.0) for veins in grain),
        boxes(lefts, joints, lefts + 0.436, joints + 0.014),
    ]
    colors = np.concatenate([tones, *[tones - 0.06] * 2, np.full(12, 0.72)])[:, None] * wood
    x, y = np.moveaxis(np.concatenate(strips), -1, 0)
    seen = np.stack([vanishing + x * (1.0 + 0.35 * y), y], axis=-1)
    canvas.backdrops(seen, [tuple(color) for color in colors.astype(int).tolist()])
    return "on a wooden floor"


def _bands(canvas: Canvas, start: Color, end: Color, top: float, bottom: float, steps: int) -> None:
    """Fill what lies below `top` with colors from `start` to `end`, which is reached at `bottom`."""
    colors = np.linspace(start, end, steps + 1)[1:].astype(int).tolist()
    edges = np.linspace(top, bottom, steps)
    strips = boxes(-_FAR, edges, _FAR, np.append(edges[1:] + 0.05, _FAR))  # the next strip hides what reaches below it
    canvas.backdrops(strips, [tuple(color) for color in colors])


def _fill(canvas: Canvas, top: float, color: Color) -> None:
    canvas.backdrop([(-_FAR, top), (_FAR, top), (_FAR, _FAR), (-_FAR, _FAR)], color)
