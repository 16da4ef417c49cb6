"""The photo of a finely drawn claim: softer light than a plain one's, and a shadow where things touch."""

import numpy as np
from PIL import Image, ImageFilter

from vae_ldm.data.rendered_claims.canvas import Canvas, Dent, Pose
from vae_ldm.data.rendered_claims.light import cast_shadow
from vae_ldm.data.rendered_claims.objects import TIN_HALF_WIDTH, Item

_MOTTLE = 40  # spots along the longer side of a picture


def develop_fine(
    canvas: Canvas, rng: np.random.Generator, item: Item, dent: Dent | None, image_size: tuple[int, int]
) -> Image.Image:
    """The canvas in soft light, with sensor noise."""
    color, mask = canvas.averaged(softness=max(0.0, rng.uniform(-0.6, 0.55)))
    angle = np.deg2rad(rng.uniform(-145, -35))  # the lamp is above; y points down
    light = np.array([np.cos(angle), np.sin(angle)], np.float32)
    tint = (rng.uniform(0.96, 1.04) * rng.uniform([0.98, 0.98, 0.93], [1.06, 1.02, 1.03])).astype(np.float32)
    strength, noise_level = np.float32(rng.uniform(0.10, 0.2)), rng.uniform(1.0, 3.0)
    unit = min(image_size) / 2
    penumbra = rng.uniform(0.06, 0.12) * unit
    spots = rng.standard_normal((_MOTTLE, _MOTTLE), np.float32)

    inside = np.asarray(mask, np.float32) / 255
    shadow = np.asarray(cast_shadow(mask, light, penumbra, item.stands), np.float32) / 255
    xs, ys = ((np.arange(side, dtype=np.float32) + 0.5) / unit - side / (2 * unit) for side in image_size[::-1])
    gain = (1 + strength * light[0] * xs - 0.07 * xs * xs) + (strength * light[1] * ys - 0.07 * ys * ys)[:, None]
    gain *= 1 + 0.013 * _mottle(spots, image_size)
    outside = 1 - 0.5 * shadow
    if item.stands:
        lowered = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, -0.03 * unit))
        touching = lowered.filter(ImageFilter.BoxBlur(0.07 * unit))
        outside *= 1 - 0.4 * np.asarray(touching, np.float32) / 255
    gain *= 1 - (1 - outside) * (1 - inside)
    gleam: np.ndarray | None = None

    if item.is_round or dent is not None:
        on_object = _on_object(canvas.pose, xs, ys[:, None])
        toward_light = canvas.pose.direction_to_object(light).astype(np.float32)
        relief = np.zeros(image_size, np.float32)
        gleam = np.zeros(image_size, np.float32)
        if item.is_round:
            side = (on_object[..., 0] / np.float32(TIN_HALF_WIDTH)).clip(-1, 1)
            facing = np.sqrt(1 - side * side) * 0.75 + side * toward_light[0] * 0.5
            relief += 0.8 * facing - 0.5
            highlight = side - 0.5 * toward_light[0]
            gleam += 38 * np.exp(-((highlight / 0.13) ** 2)) + 10 * np.exp(-((highlight / 0.4) ** 2))
        if dent is not None:
            slope = dent.shading(on_object, toward_light)
            relief += np.where(slope < 0, 0.5, 0.32) * slope
            gleam += 66 * slope.clip(0)
        gain *= 1 + relief * inside
        gleam = gleam * inside

    developed = color * gain[..., None]
    developed *= tint
    if gleam is not None:
        developed += gleam[..., None]
    developed += rng.standard_normal(color.shape, np.float32) * np.float32(noise_level)
    return Image.fromarray(developed.clip(0, 255).astype(np.uint8))


def _on_object(pose: Pose, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Where on the object's plane the pixels at xs [W] and ys [H, 1] lie, float32: [H, W, 2]."""
    rows = np.linalg.inv(pose.matrix).astype(np.float32)
    x, y, depth = (row[0] * xs + row[1] * ys + row[2] for row in rows)
    return np.stack([x / depth, y / depth], axis=-1)


def _mottle(spots: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Smooth random spots [H, W] of about unit strength, as fine beside the picture at every size."""
    height, width = image_size
    share_y, share_x = (_MOTTLE * (1 - side / max(image_size)) / 2 for side in (height, width))
    part = (share_x, share_y, _MOTTLE - share_x, _MOTTLE - share_y)
    return np.asarray(Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC, box=part))
