"""Damaged copies of good photos, each kind of damage as strong as a linear floor can just tell."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vae_ldm.data.made_damage import KINDS, DamageKind, MadeDamage, make_damage
from vae_ldm.desk.novelty.backbone_features import THUMBNAIL_SIDE, squares
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures
from vae_ldm.latent_space.novelty_scores.pixel_floor import PixelFloor, farther_auroc
from vae_ldm.models.pixels import as_pictures

TARGET = 0.7
"""The AUROC of the floor on made damage. Stronger damage is found by every score and says nothing of them."""
_MAX_JUDGED = 150
_MAX_FITTED = 1500
_NUM_HALVINGS = 7


@dataclass(frozen=True)
class DamageStrength:
    """How strong a kind of damage is made, and how well the linear floor tells it then."""

    strength: float
    """In [0, 1]."""
    floor: float
    """AUROC of the farther of the two floors, in [.5, 1]; below the target where the strongest damage is."""


def fit_strengths(
    pictures: Sequence[np.ndarray], *, seed: int = 0, small: bool = True
) -> dict[DamageKind, DamageStrength]:
    """The strength of each kind on photos like these, uint8 [H, W, C] each, at which the floor's AUROC is about .7.

    The floor is fitted on two thirds of the photos, and sees the others as they are and damaged. `small` damages copies
    of 32 px, in seconds instead of a minute; noise alone is then made weaker, because shrinking hides it.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pictures))
    cut = max(1, len(order) // 3)
    judged, fitted_on = order[: min(cut, _MAX_JUDGED)], order[cut:][:_MAX_FITTED]
    held, lenders = ([pictures[index] for index in rows] for rows in (judged, np.resize(fitted_on, len(judged))))
    if small:
        held, lenders = [thumbnail(each) for each in held], [thumbnail(each) for each in lenders]
    floor = PixelFloor.fit(squares([pictures[index] for index in fitted_on], THUMBNAIL_SIDE).flatten(1))
    usual = floor(squares(held, THUMBNAIL_SIDE).flatten(1))

    def told(kind: DamageKind, strength: float) -> float:
        damaged = [
            damage(picture, lender, kind, strength, (seed, index)).image
            for index, (picture, lender) in enumerate(zip(held, lenders, strict=True))
        ]
        return farther_auroc(usual, floor(squares(damaged, THUMBNAIL_SIDE).flatten(1)))

    found: dict[DamageKind, DamageStrength] = {}
    for kind in KINDS:
        strongest = told(kind, 1.0)
        low, high = 0.0, 1.0
        for _ in range(_NUM_HALVINGS if strongest > TARGET else 0):
            middle = (low + high) / 2
            if told(kind, middle) < TARGET:
                low = middle
            else:
                high = middle
        found[kind] = DamageStrength(high, told(kind, high) if high < 1 else strongest)
    return found


def damage(
    picture: np.ndarray, lender: np.ndarray, kind: DamageKind, strength: float, seed: tuple[int, ...]
) -> MadeDamage:
    """A damaged copy of a picture; the same seed gives the same damage, and another for each kind."""
    rng = np.random.default_rng([*seed, zlib.crc32(kind.encode())])
    return make_damage(picture, kind, rng, strength=strength, other=lender)


def make_copies(
    pictures: Sequence[np.ndarray],
    sources: Sequence[tuple[int, int]],
    kind: DamageKind,
    strengths: Mapping[DamageKind, DamageStrength],
    *,
    seed: int,
) -> list[MadeDamage]:
    """A damaged copy for each of `sources`, the index of the picture and of the one that lends a piece."""
    return [
        damage(pictures[row], pictures[lender], kind, strengths[kind].strength, (seed, row)) for row, lender in sources
    ]


def draw_sources(folds: torch.Tensor, count: int, *, seed: int) -> list[tuple[int, int]]:
    """`count` photos to be damaged, or all where there are fewer, each with another of its fold that lends a piece.

    Within a fold, `folds` int64 [N], because what shows a photo of a fold is kept from the model without that fold.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(folds))[:count])
    found = []
    for row in rows.tolist():
        others = (folds == folds[row]).nonzero().flatten().tolist()
        others = [other for other in others if other != row] or [row]
        found.append((row, others[rng.integers(len(others))]))
    return found


def stored_thumbnails(features: PhotoFeatures) -> list[np.ndarray]:
    """Copies of 32 x 32 px of the photos that features were taken from, uint8 [32, 32, 3] each."""
    pixels = features.layouts[0].float().unflatten(1, (3, THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return list(as_pictures(pixels))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """A copy of 32 x 32 px, each pixel the mean of those that it stands for; uint8 [32, 32, C]."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    channels = [
        np.asarray(Image.fromarray(picture[..., channel]).resize(size, Image.Resampling.BOX))
        for channel in range(picture.shape[2])
    ]
    return np.stack(channels, axis=2)
