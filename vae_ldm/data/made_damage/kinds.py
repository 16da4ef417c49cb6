"""The kinds of made damage; each paints something and says how opaque the paint is at each pixel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from vae_ldm.data.made_damage.shapes import band, blob, perlin_mask, perlin_noise, rectangle, strokes

DamageKind = Literal[
    "cut_paste",
    "texture",
    "scratches",
    "erased",
    "smoothed",
    "insertion",
    "spot",
    "shadow",
    "shading",
    "blur",
    "noise",
    "photometric",
]
KINDS: tuple[DamageKind, ...] = get_args(DamageKind)

_LEAST_OPACITY = 0.02
"""Paint thinner than this is left out, so that a mask ends where the eye sees it end."""


@dataclass(frozen=True, eq=False)
class MadeDamage:
    """A damaged copy of a photo, and where it is damaged."""

    image: np.ndarray
    """uint8 [H, W, C]"""
    mask: np.ndarray
    """bool [H, W]: outside it the photo is as it was; all of it where the photo as a whole has suffered."""


@dataclass(frozen=True, eq=False)
class _Paint:
    color: np.ndarray
    """float64 [H, W, C]: what the photo would show under paint that hides it."""
    opacity: np.ndarray
    """float64 [H, W], in [0, 1]"""


@dataclass(frozen=True, eq=False)
class _Subject:
    """What a kind works with."""

    photo: np.ndarray
    """float64 [H, W, C], in [0, 255], without alpha"""
    rng: np.random.Generator
    strength: float
    other: np.ndarray
    """Another photo in the same size, float64 [H, W, C]."""

    @property
    def size(self) -> tuple[int, int]:
        return self.photo.shape[0], self.photo.shape[1]

    @property
    def opacity(self) -> float:
        """Paint hides the photo from half of the strength on; weaker damage is thinner as well as smaller."""
        return min(1.0, 2 * self.strength)

    def softened(self, opacity: np.ndarray) -> np.ndarray:
        """The opacity as it is, or as often with soft edges: of a photo of heat, or out of focus, no edge is sharp."""
        if self.rng.random() < 0.5:
            return opacity
        radius = self.rng.uniform(0.01, 0.06) * min(self.size)
        soft = _blurred(255 * opacity[..., None], radius)[..., 0]
        return soft * (opacity.max() / max(float(soft.max()), 1))  # a thin line stays as visible as it was

    def either(self) -> float:
        """-1 or 1: both directions, so that what is learned from made damage knows too much and too little."""
        return float(self.rng.choice([-1, 1]))


def make_damage(
    image: np.ndarray, kind: DamageKind, rng: np.random.Generator, *, strength: float, other: np.ndarray
) -> MadeDamage:
    """A damaged copy of a photo, uint8 [H, W, C] of any size; grey, RGB or RGBA, whose alpha stays as it is.

    `strength` in [0, 1] is how large and how visible the damage is: at 0 there is none. `other` is another photo of
    any size, from which insertions and some textures are taken. The same generator state gives the same damage.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of made damage is between 0 and 1, not {strength}")
    damaged = image.copy()
    if strength == 0:
        return MadeDamage(damaged, np.zeros(image.shape[:2], dtype=bool))
    num_colors = 3 if image.shape[2] >= 3 else 1
    photo = image[..., :num_colors].astype(float)
    paint = _PAINTERS[kind](_Subject(photo, rng, strength, _fitted(other, image.shape[:2], num_colors)))
    opacity = np.where(paint.opacity >= _LEAST_OPACITY, paint.opacity, 0)
    painted = photo + (paint.color - photo) * opacity[..., None]
    damaged[..., :num_colors] = np.round(painted).clip(0, 255)
    return MadeDamage(damaged, opacity > 0)


def _cut_paste(subject: _Subject) -> _Paint:
    """A piece of the photo, a little brighter or darker, at another place of it (Li et al. 2021)."""
    rows, columns = rectangle(subject.rng, subject.size, 0.25 * subject.strength)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    top = subject.rng.integers(0, subject.photo.shape[0] - height + 1)
    left = subject.rng.integers(0, subject.photo.shape[1] - width + 1)
    piece = subject.photo[top : top + height, left : left + width]
    if subject.rng.random() < 0.5:
        piece = piece[::-1, ::-1]
    color, opacity = subject.photo.copy(), np.zeros(subject.size)
    color[rows, columns] = piece * subject.rng.uniform(0.9, 1.1)
    opacity[rows, columns] = subject.opacity
    return _Paint(color, subject.softened(opacity))


def _texture(subject: _Subject) -> _Paint:
    """Another photo or coloured noise under a Perlin mask (Zavrtanik et al. 2021)."""
    size = subject.size
    if subject.rng.random() < 0.5:
        color = subject.other
    else:
        cells = int(2 ** subject.rng.integers(2, 6))
        noise = np.stack(
            [perlin_noise(subject.rng, size, (cells, cells)) for _ in range(subject.photo.shape[2])], axis=-1
        )
        color = subject.rng.uniform(60, 195, subject.photo.shape[2]) + 90 * noise
    opacity = perlin_mask(subject.rng, size, 0.25 * subject.strength) * subject.opacity * subject.rng.uniform(0.6, 1)
    return _Paint(color, subject.softened(opacity))


def _scratches(subject: _Subject) -> _Paint:
    """One to three thin bent lines of one colour (the scars of Li et al. 2021, bent)."""
    opacity = strokes(
        subject.rng,
        subject.size,
        0.15 + 0.6 * subject.strength,
        0.003 + 0.02 * subject.strength,
        count=int(subject.rng.integers(1, 4)),
    )
    return _Paint(
        _plain(subject.photo, _unlike(subject.photo, subject.rng)), subject.softened(opacity * subject.opacity)
    )


def _erased(subject: _Subject) -> _Paint:
    """A rectangle or a blob of one colour: of the photo's own mean, or any."""
    size = subject.size
    if subject.rng.random() < 0.5:
        opacity = np.zeros(size)
        opacity[rectangle(subject.rng, size, 0.25 * subject.strength)] = 1
    else:
        opacity = blob(subject.rng, size, 0.25 * subject.strength, softness=0.1)
    tone = subject.photo.mean(axis=(0, 1))
    if subject.rng.random() < 0.5:
        tone = subject.rng.uniform(0, 255, subject.photo.shape[2])
    return _Paint(_plain(subject.photo, tone), subject.softened(opacity * subject.opacity))


def _smoothed(subject: _Subject) -> _Paint:
    """A soft-edged region that has lost its detail."""
    radius = 0.08 * min(subject.size)
    opacity = blob(subject.rng, subject.size, 0.6 * subject.strength, softness=0.5)
    return _Paint(_blurred(subject.photo, max(radius, 1)), opacity * subject.opacity)


def _insertion(subject: _Subject) -> _Paint:
    """A piece of another photo with a faded edge, half-way to the colours of its new place (after Schlueter 2022)."""
    opacity = blob(subject.rng, subject.size, 0.4 * subject.strength, softness=0.3)
    weights = opacity[..., None] / max(float(opacity.sum()), 1e-9)  # a tiny photo's blob may miss every middle
    shift = ((subject.photo - subject.other) * weights).sum(axis=(0, 1))
    return _Paint(subject.other + shift * subject.rng.uniform(0.3, 1), opacity * subject.opacity)


def _spot(subject: _Subject) -> _Paint:
    """A small smooth spot that is brighter or darker than its place."""
    opacity = blob(subject.rng, subject.size, 0.004 + 0.05 * subject.strength, softness=1.5)
    return _Paint(subject.photo + subject.either() * 160 * subject.strength, opacity)


def _shadow(subject: _Subject) -> _Paint:
    """A straight band that is brighter or darker."""
    opacity = band(subject.rng, subject.size, subject.rng.uniform(0.05, 0.5), softness=0)
    return _Paint(subject.photo + subject.either() * 120 * subject.strength, subject.softened(opacity))


def _shading(subject: _Subject) -> _Paint:
    """A smooth field over the whole photo, as uneven light or heat; the photo keeps its mean and its detail."""
    field = perlin_noise(subject.rng, subject.size, (int(subject.rng.integers(1, 4)), int(subject.rng.integers(1, 4))))
    field -= field.mean()
    return _Paint(subject.photo + 200 * subject.strength * field[..., None], np.ones(subject.size))


def _blur(subject: _Subject) -> _Paint:
    """The whole photo out of focus."""
    radius = 0.04 * min(subject.size) * subject.strength * subject.rng.uniform(0.7, 1.3)
    return _Paint(_blurred(subject.photo, radius), np.ones(subject.size))


def _noise(subject: _Subject) -> _Paint:
    """Grain over the whole photo."""
    return _Paint(
        subject.photo + subject.rng.normal(0, 100 * subject.strength, subject.photo.shape), np.ones(subject.size)
    )


def _photometric(subject: _Subject) -> _Paint:
    """Another brightness, contrast and gamma of the whole photo, and another tint where it has colours."""
    gamma = 2 ** (subject.either() * subject.strength * subject.rng.uniform(0.5, 1))
    contrast = 2 ** (subject.either() * subject.strength * subject.rng.uniform(0, 1))
    toned = 255 * (subject.photo.clip(0, 255) / 255) ** gamma
    middle = toned.mean(axis=(0, 1))
    tint = (
        60 * subject.strength * subject.rng.uniform(-1, 1, subject.photo.shape[2])
        if subject.photo.shape[2] > 1
        else 0.0
    )
    return _Paint((toned - middle) * contrast + middle + tint, np.ones(subject.size))


_Painter = Callable[[_Subject], _Paint]
_PAINTERS: Mapping[DamageKind, _Painter] = {
    "cut_paste": _cut_paste,
    "texture": _texture,
    "scratches": _scratches,
    "erased": _erased,
    "smoothed": _smoothed,
    "insertion": _insertion,
    "spot": _spot,
    "shadow": _shadow,
    "shading": _shading,
    "blur": _blur,
    "noise": _noise,
    "photometric": _photometric,
}


def _plain(photo: np.ndarray, tone: np.ndarray) -> np.ndarray:
    return np.broadcast_to(tone, photo.shape)


def _unlike(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour at least 60 of 255 brighter or darker than the photo's mean."""
    mean = photo.mean(axis=(0, 1))
    step = rng.uniform(60, 160)
    return np.asarray(mean + step * (1 if mean.mean() < 127.5 else -1)).clip(0, 255)


def _blurred(photo: np.ndarray, radius: float) -> np.ndarray:
    """Each channel under a Gaussian of this standard deviation in px."""
    gaussian = ImageFilter.GaussianBlur(radius)
    channels = [Image.fromarray(channel.astype(np.uint8)).filter(gaussian) for channel in np.moveaxis(photo, 2, 0)]
    return np.stack([np.asarray(channel, dtype=float) for channel in channels], axis=-1)


def _fitted(other: np.ndarray, size: tuple[int, int], num_colors: int) -> np.ndarray:
    """Another photo in this size and with so many colours, float64 [H, W, num_colors]."""
    colors = other[..., :3] if other.shape[2] >= 3 else other[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(colors)).convert("RGB" if num_colors == 3 else "L")
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=float).reshape(*size, num_colors)
