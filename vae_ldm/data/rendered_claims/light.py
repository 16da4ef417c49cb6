"""Light, shadow and sensor noise over what the canvas holds: all smooth or of one pixel, so the final size suffices."""

import numpy as np
from PIL import Image, ImageFilter

from vae_ldm.data.rendered_claims.canvas import Canvas, Dent, picture_grid
from vae_ldm.data.rendered_claims.objects import TIN_HALF_WIDTH, Item


def develop(
    canvas: Canvas, rng: np.random.Generator, item: Item, dent: Dent | None, image_size: tuple[int, int]
) -> Image.Image:
    """The photo of a plainly drawn claim."""
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
    shadow = np.asarray(cast_shadow(mask, light, penumbra, item.stands), np.float32)[..., None] / 255
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


def cast_shadow(mask: Image.Image, light: np.ndarray, penumbra: float, stands: bool) -> Image.Image:
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
