"""Where a photo departs: maps on one scale, and a picture of them that people can read."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.latent_space.conformal import threshold

# Below the first heat a photo is left as it is. At 1 a place is as strange as makes a whole photo novel.
_HEATS = (0.5, 1.0, 2.0)
_OPACITIES = (0.0, 0.45, 0.75)
_LEGIBLE_SIDE = 192
_COLORS = ((255, 221, 64), (255, 128, 16), (214, 16, 32))


@dataclass(frozen=True)
class HeatScale:
    """What a map's numbers mean: `usual` is the calibration photos' mean, few of their maxima exceed `strange`."""

    usual: float
    strange: float

    @classmethod
    def fit(cls, means: Tensor, maxima: Tensor, false_alarm_rate: float) -> Self:
        """Of the mean [n] and the maximum [n] of each calibration photo's map."""
        usual = means.double().mean().item()
        return cls(usual, max(threshold(maxima.double(), false_alarm_rate), usual + 1e-12))

    def __call__(self, maps: Tensor) -> Tensor:
        """Heat of maps of any shape: 0 where usual, and above 1 in one calibration photo of 1 / false_alarm_rate."""
        return (maps - self.usual) / (self.strange - self.usual)


def own_scale(heat: Tensor) -> Tensor:
    """Heat [h, w] from the photo's median place, 0, to its hottest one, 1; all 0 where none is hotter than the others.

    For a photo that is unusual as a whole, with no place that would be strange by itself.
    """
    middle = heat.median()
    return (heat - middle) / (heat.max() - middle).clamp(min=1e-12)


def overlay(picture: np.ndarray, heat: Tensor) -> np.ndarray:
    """The picture (uint8 [H, W, C]) in RGB, hot places of heat [h, w] in yellow, orange and red.

    uint8 [H * n, W * n, 3]: a small picture is enlarged n times, until its shorter side has 192 px.
    """
    rgb = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3]
    times = math.ceil(_LEGIBLE_SIDE / min(rgb.shape[:2]))
    rgb = rgb.repeat(times, axis=0).repeat(times, axis=1)
    smooth = F.interpolate(heat[None, None].float(), rgb.shape[:2], mode="bicubic", align_corners=False)[0, 0].numpy()
    opacity = np.interp(smooth, _HEATS, _OPACITIES)[..., None]
    color = np.stack([np.interp(smooth, _HEATS, channel) for channel in zip(*_COLORS, strict=True)], axis=-1)
    grey = rgb.mean(axis=2, keepdims=True)
    # Half of the photo's own colour is taken out under the heat, so that a red can does not pass for a hot one.
    return np.round((rgb + (grey - rgb) * opacity) * (1 - opacity) + color * opacity).clip(0, 255).astype(np.uint8)


def hottest(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The highest heat at each place: [B, h, w] of several maps [B, h_i, w_i], all brought to `size`."""
    resized = [F.interpolate(each[:, None].float(), size, mode="bilinear", antialias=True)[:, 0] for each in maps]
    return torch.stack(resized).amax(dim=0)
