"""Draws a claim from a seed: an object, its damage, its place, its light, and the caption."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from vae_ldm.data.rendered_claims.canvas import Canvas, Color, Dent, Pose, picture_grid
from vae_ldm.data.rendered_claims.damage import draw_dent, paint_crack, paint_scratches
from vae_ldm.data.rendered_claims.objects import ITEMS, TIN_HALF_WIDTH, Item, choose
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


def render_claim(seed: int, *, label: int | None = None, image_size: tuple[int, int] = (64, 64)) -> RenderedClaim:
    """The claim of this seed, an RGB picture of `image_size` (height, width).

    Everything follows from the seed: the class, drawn uniformly unless `label` (an index into `CLASS_NAMES`) is given,
    and the scene, which is the same at every size and, but for the damage, in every condition of one object.
    About 1.5 ms at 32 px and 2 ms at 64 px.
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
    item = ITEMS[name]

    pose = Pose.draw(rng, item.max_turn)
    dent = draw_dent(damage_rng, item.face) if condition == "dented" else None
    canvas = Canvas(image_size, pose, dent)
    place = _paint_background(canvas, rng)
    color, detail = item.paint(canvas, rng)
    if condition == "cracked":
        paint_crack(canvas, damage_rng, item.face, core=item.crack[0], rim=item.crack[1])
    elif condition == "scratched":
        paint_scratches(canvas, damage_rng, item.face, bright=(252, 252, 250), dark=(30, 26, 28))
    caption = _caption(rng, condition, color, name, detail, place)
    image = _develop(canvas, rng, item, dent, image_size)  # last, as it draws one number a pixel
    return RenderedClaim(image, label, caption, seed)


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


def _develop(
    canvas: Canvas, rng: np.random.Generator, item: Item, dent: Dent | None, image_size: tuple[int, int]
) -> Image.Image:
    """Add light, shadow and sensor noise; all are smooth or of one pixel, so the final size suffices."""
    # Softness of lens and sensor, in pixels at every size. A third of the pictures have none; the rest teach a
    # classifier to look at shapes and not at sharpness, which an autoencoder takes away.
    color, mask = canvas.averaged(softness=max(0.0, rng.uniform(-0.4, 0.75)))
    angle = np.deg2rad(rng.uniform(-145, -35))  # the lamp is above; y points down
    light = np.array([np.cos(angle), np.sin(angle)], np.float32)
    tint = rng.uniform(0.93, 1.05, size=3).astype(np.float32)
    strength, noise_level = rng.uniform(0.12, 0.22), rng.uniform(1.0, 4.0)
    penumbra = rng.uniform(0.05, 0.09) * min(image_size) / 2

    grid = picture_grid(image_size)
    inside = np.asarray(mask, np.float32)[..., None] / 255
    shadow = np.asarray(_cast_shadow(mask, light, penumbra, item.stands), np.float32)[..., None] / 255
    gain = (1 + strength * (grid @ light))[..., None] * (1 - 0.55 * shadow * (1 - inside))
    gleam = np.zeros_like(gain)

    if item.is_round or dent is not None:
        on_object = canvas.pose.to_object(grid).astype(np.float32)
        toward_light = canvas.pose.direction_to_object(light).astype(np.float32)
        relief = np.zeros(image_size, np.float32)
        if item.is_round:
            side = (on_object[..., 0] / TIN_HALF_WIDTH).clip(-1, 1)
            facing = np.sqrt(1 - side * side) * 0.8 + side * toward_light[0] * 0.6
            relief += 0.75 * facing - 0.5
            gleam += (46 * np.exp(-(((side - 0.55 * toward_light[0]) / 0.16) ** 2)))[..., None] * inside
        if dent is not None:
            slope = dent.shading(on_object, toward_light)
            relief += np.where(slope < 0, 0.72, 0.35) * slope
            gleam += (105 * slope.clip(0))[..., None] * inside
        gain *= 1 + relief[..., None] * inside

    noise = rng.standard_normal(color.shape, np.float32) * np.float32(noise_level)
    developed = color * gain * tint + gleam + noise
    return Image.fromarray(developed.clip(0, 255).astype(np.uint8))


def _cast_shadow(mask: Image.Image, light: np.ndarray, penumbra: float, stands: bool) -> Image.Image:
    """The object's shadow, mode L: lying on the ground away from the lamp, or close around a flat thing."""
    unit = min(mask.size) / 2
    if stands and (box := mask.getbbox()) is not None:
        foot, squash, slant = box[3] - 0.06 * unit, 2.6, light[0] * 1.6
        # source = (x + slant (foot - y), foot - squash (foot - y)): the object tipped over about its foot
        matrix = (1, -slant, slant * foot, 0, squash, foot * (1 - squash))
    else:
        matrix = (1, 0, light[0] * 0.09 * unit, 0, 1, light[1] * 0.09 * unit)
    shadow = mask.transform(mask.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return shadow.filter(ImageFilter.GaussianBlur(penumbra))


def _caption(rng: np.random.Generator, condition: str, color: str, name: str, detail: str, place: str) -> str:
    """A caption of the scene: always the class, and sometimes color, detail and place."""
    with_color, with_detail, with_place, as_photo = rng.random(4) < (0.5, 0.4, 0.6, 0.5)
    words = [condition, color if with_color else "", name, detail if with_detail else "", place if with_place else ""]
    return ("a photo of a " if as_photo else "a ") + " ".join(word for word in words if word)
