"""Where a photo departs: maps on one scale, and a picture of them that people can read."""

import math
from dataclasses import dataclass

import numpy as np
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
    """What a map's numbers mean: `usual` is the calibration photos' mean, and at `strange` the heat is 1."""

    usual: float
    strange: float

    def __call__(self, maps: Tensor) -> Tensor:
        """Heat of maps of any shape: 0 where usual, 1 where as strange as `strange`."""
        return (maps - self.usual) / (self.strange - self.usual)


def fit_scales(means: Tensor, maxima: Tensor, false_alarm_rate: float) -> list[HeatScale]:
    """A scale for each of k maps that are shown as one, the highest heat at each place.

    The scales for the mean [n, k] and the maximum [n, k] of each calibration photo's maps, at the size at which they
    are shown.
    What is shown has a place above 1 in a share of `false_alarm_rate` of usual photos. The higher of several maps
    exceeds a level more often than each of them, so each takes the level that as few photos exceed as leaves the share
    for all of them together. That takes k / `false_alarm_rate` calibration photos; fewer give up to k times the share.

    Raises ValueError where there are fewer calibration photos than `photos_needed`.
    """
    usual, maxima = means.double().mean(dim=0), maxima.double()
    threshold(maxima[:, 0], false_alarm_rate)  # where photos are too few, it says so
    alarms = math.floor(false_alarm_rate * (len(maxima) + 1) + 1e-9)
    falling = maxima.sort(dim=0, descending=True).values
    # A photo alarms beside the n - 1 others where one of its maxima is among the highest `number` of that map.
    number = next(
        (each for each in range(alarms, 1, -1) if (maxima >= falling[each - 1]).any(dim=1).sum() <= alarms), 1
    )
    pairs = zip(usual.tolist(), falling[number - 1].tolist(), strict=True)
    return [HeatScale(low, max(high, low + 1e-12)) for low, high in pairs]


def own_scale(heat: Tensor) -> Tensor:
    """Heat [h, w] from the photo's median place, 0, to its hottest one, 1; all 0 where none is hotter than the others.

    The scale of a photo that is unusual as a whole and has no place that is strange by itself.
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


def at_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, h, w] brought to `size`, each number the mean of those that it stands for."""
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", antialias=True)[:, 0]
