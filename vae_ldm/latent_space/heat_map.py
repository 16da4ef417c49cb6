"""Where a photo departs: maps on one scale, and a picture of them that people can read."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.latent_space.conformal import threshold

# Below the first heat a photo is left grey. At 1 a place is as strange as makes a whole photo novel.
_HEATS = (0.5, 1.0, 2.0)
_OPACITIES = (0.0, 0.5, 0.75)
_LEGIBLE_SIDE = 192
_COLORS = ((255, 221, 64), (255, 128, 16), (214, 16, 32))


@dataclass(frozen=True)
class HeatScale:
    """What a map's numbers mean: `usual` is the calibration photos' mean, and at `strange` the heat is 1."""

    usual: float
    strange: float

    @classmethod
    def fit(cls, means: Tensor, maxima: Tensor, groups: Tensor, false_alarm_rate: float) -> Self:
        """The scale at which a share of `false_alarm_rate` of usual photos has a place above 1.

        `means` and `maxima` are the mean and the strangest place of each calibration photo's map, [n]; photos of one of
        `groups`, int64 [n], weigh as one photo. Raises ValueError where there are fewer groups than `photos_needed`.
        """
        _, members, counts = groups.unique(return_inverse=True, return_counts=True)
        usual = ((means.double() / counts[members]).sum() / len(counts)).item()
        return cls(usual, max(threshold(maxima, false_alarm_rate, groups), usual + 1e-12))

    def __call__(self, maps: Tensor) -> Tensor:
        """Heat of maps of any shape: 0 where usual, 1 where as strange as `strange`."""
        return (maps - self.usual) / (self.strange - self.usual)


def own_scale(heat: Tensor) -> Tensor:
    """Heat [h, w] from the photo's median place, 0, to its hottest one, 1; all 0 where none is hotter than the others.

    The scale of a photo that is unusual as a whole and has no place that is strange by itself.
    """
    middle = heat.median()
    return (heat - middle) / (heat.max() - middle).clamp(min=1e-12)


def overlay(picture: np.ndarray, heat: Tensor) -> np.ndarray:
    """The picture (uint8 [H, W, C]) in grey, hot places of heat [h, w] in yellow, orange and red.

    uint8 [H * n, W * n, 3]: a small picture is enlarged n times, until its shorter side has 192 px. It is grey because
    heat cannot be told from the colours of a red tin or of rust.
    """
    grey = picture[..., :3].mean(axis=2, keepdims=True).repeat(3, axis=2)
    times = math.ceil(_LEGIBLE_SIDE / min(grey.shape[:2]))
    grey = grey.repeat(times, axis=0).repeat(times, axis=1)
    smooth = F.interpolate(heat[None, None].float(), grey.shape[:2], mode="bicubic", align_corners=False)[0, 0].numpy()
    opacity = np.interp(smooth, _HEATS, _OPACITIES)[..., None]
    color = np.stack([np.interp(smooth, _HEATS, channel) for channel in zip(*_COLORS, strict=True)], axis=-1)
    return np.round(grey * (1 - opacity) + color * opacity).clip(0, 255).astype(np.uint8)
