"""Draws a claim from a seed: an object, its damage, its place, its light, and the caption."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from vae_ldm.choices import Detail
from vae_ldm.data.rendered_claims.canvas import Canvas, Color, Dent, Pose
from vae_ldm.data.rendered_claims.damage import Box, draw_dent, paint_crack, paint_scratches
from vae_ldm.data.rendered_claims.fine.damage import draw_buckle, paint_fine_crack, paint_fine_scratches
from vae_ldm.data.rendered_claims.fine.ground import paint_fine_background
from vae_ldm.data.rendered_claims.fine.light import develop_fine
from vae_ldm.data.rendered_claims.fine.objects import FINE_ITEMS
from vae_ldm.data.rendered_claims.light import develop
from vae_ldm.data.rendered_claims.objects import ITEMS, Item, choose
from vae_ldm.errors import DataError

CONDITIONS = ("good", "cracked", "scratched", "dented")
CLASS_NAMES: tuple[str, ...] = (
    *(f"{condition} {item}" for item in ("laptop bezel", "parcel", "tin") for condition in CONDITIONS),
    "shipping label",
)

GROUND_COLORS: dict[str, Color] = {
    "grey": (150, 152, 158),
    "white": (226, 226, 224),
    "blue": (120, 152, 196),
    "green": (138, 172, 142),
    "pink": (222, 168, 178),
    "beige": (220, 206, 180),
}


class RenderedClaim(NamedTuple):
    """A picture and everything known about it."""

    image: Image.Image
    label: int
    caption: str
    seed: int


class _Style(NamedTuple):
    """How a claim is drawn."""

    items: Mapping[str, Item]
    paint_background: Callable[[Canvas, np.random.Generator], str]
    """Paints what is behind and below the object; returns the place in words."""
    bent_points: int | None
    """How finely outlines are bent by a dent."""
    draw_dent: Callable[[np.random.Generator, Box], Dent]
    paint_crack: Callable[[Canvas, np.random.Generator, Item], None]
    paint_scratches: Callable[[Canvas, np.random.Generator, Item], None]
    develop: Callable[[Canvas, np.random.Generator, Item, Dent | None, tuple[int, int]], Image.Image]


def render_claim(
    seed: int, *, label: int | None = None, image_size: tuple[int, int] = (64, 64), detail: Detail = "plain"
) -> RenderedClaim:
    """The claim of this seed, an RGB picture of `image_size` (height, width).

    Everything follows from the seed: the class, drawn uniformly unless `label` (an index into `CLASS_NAMES`) is given,
    and the scene, which is the same at every size and, but for the damage, in every condition of one object.
    `detail` is fine for thin damage and small print, which take 64 px or more; plain pictures are bold.
    About 1.5 ms at 32 px and 2 ms at 64 px, and a third more where `detail` is fine.
    """
    rng = np.random.default_rng(seed)
    damage_rng = rng.spawn(1)[0]  # its own stream: the good, cracked, scratched and dented tin of a seed share a scene
    drawn = int(rng.integers(len(CLASS_NAMES)))
    label = drawn if label is None else label
    if not 0 <= label < len(CLASS_NAMES):
        raise DataError(f"rendered claims have the classes 0 to {len(CLASS_NAMES) - 1}; there is no class {label}")
    condition, _, name = CLASS_NAMES[label].partition(" ")
    if condition not in CONDITIONS:
        condition, name = "", CLASS_NAMES[label]
    style = _STYLES[detail]
    item = style.items[name]

    pose = Pose.draw(rng, item.max_turn)
    if not item.may_be_mirrored:
        pose = pose.unmirrored()
    dent = style.draw_dent(damage_rng, item.face) if condition == "dented" else None
    canvas = Canvas(image_size, pose, dent, bent_points=style.bent_points)
    place = style.paint_background(canvas, rng)
    color, feature = item.paint(canvas, rng)
    if condition == "cracked":
        style.paint_crack(canvas, damage_rng, item)
    elif condition == "scratched":
        style.paint_scratches(canvas, damage_rng, item)
    caption = _caption(rng, condition, color, name, feature, place)
    image = style.develop(canvas, rng, item, dent, image_size)  # last, as it draws one number a pixel
    return RenderedClaim(image, label, caption, seed)


def _paint_crack(canvas: Canvas, rng: np.random.Generator, item: Item) -> None:
    paint_crack(canvas, rng, item.face, core=item.crack[0], rim=item.crack[1])


def _paint_scratches(canvas: Canvas, rng: np.random.Generator, item: Item) -> None:
    paint_scratches(canvas, rng, item.face, bright=(252, 252, 250), dark=(30, 26, 28))


def _paint_background(canvas: Canvas, rng: np.random.Generator) -> str:
    """Paint what is behind and below the object; returns the place in words."""
    name, color = choose(rng, GROUND_COLORS)
    ground = tuple((np.array(color) + rng.integers(-10, 11, size=3)).tolist())
    far = 8.0  # beyond the edge of any picture up to 8 times longer than wide
    everything = [(-far, -far), (far, -far), (far, far), (-far, far)]
    kind = ("table", "backdrop", "floor")[int(rng.integers(3))]
    horizon = rng.uniform(-0.1, 0.35)
    if kind == "backdrop":
        canvas.backdrop(everything, ground)
        return f"in front of a {name} backdrop"
    if kind == "table":
        canvas.backdrop(everything, tuple((255 + c) // 2 for c in ground))
        table = [(-far, horizon), (far, horizon), (far, far), (-far, far)]
        canvas.backdrop(table, tuple(int(0.82 * c) for c in ground))
        return f"on a {name} table"
    wood = np.array([150, 112, 78]) + rng.integers(-12, 13, size=3)
    canvas.backdrop(everything, tuple(wood.tolist()))
    vanishing = rng.uniform(-0.4, 0.4)
    for left, tone in zip(np.arange(-2.7, 2.7, 0.45), rng.uniform(0.86, 1.08, size=12), strict=True):
        edges = [(left, -2.0), (left + 0.43, -2.0), (left + 0.43, 2.0), (left, 2.0)]
        plank = [(vanishing + x * (1.0 + 0.35 * y), y) for x, y in edges]
        canvas.backdrop(plank, tuple((wood * tone).astype(int).tolist()))
    return "on a wooden floor"


def _caption(rng: np.random.Generator, condition: str, color: str, name: str, detail: str, place: str) -> str:
    """A caption of the scene: always the class, and sometimes color, detail and place."""
    with_color, with_detail, with_place, as_photo = rng.random(4) < (0.5, 0.4, 0.6, 0.5)
    words = [condition, color if with_color else "", name, detail if with_detail else "", place if with_place else ""]
    return ("a photo of a " if as_photo else "a ") + " ".join(word for word in words if word)


_STYLES: dict[Detail, _Style] = {
    "plain": _Style(ITEMS, _paint_background, None, draw_dent, _paint_crack, _paint_scratches, develop),
    "fine": _Style(
        FINE_ITEMS, paint_fine_background, 24, draw_buckle, paint_fine_crack, paint_fine_scratches, develop_fine
    ),
}
