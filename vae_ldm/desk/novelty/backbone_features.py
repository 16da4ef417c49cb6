"""Photos as a frozen vision backbone sees them in one look, for the scores of `latent_space/novelty_scores`."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.patch_memory import local_patches
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures
from vae_ldm.models.pixels import as_images

SIDE = 224
"""Photos are brought to a square of so many px, whatever their proportions."""
THUMBNAIL_SIDE = 32
_PATCH_SIDE = 14
_GRID_SIDE = 7


def squares(pictures: Sequence[np.ndarray], side: int = SIDE) -> Tensor:
    """Images [N, 3, side, side] in [-1, 1] of pictures, uint8 [H, W, C] each of any size and number of channels."""
    return torch.cat([_square(as_images(picture[None]), side) for picture in pictures])


def features_from_stages(images: Tensor, stages: Sequence[Tensor]) -> PhotoFeatures:
    """What is seen in images [B, 3, h, w] by the stages [B, c_i, h_i, w_i] of a network, from fine to coarse.

    Layouts are the pixels of a small copy, the second stage and the last but one, averaged over 7 x 7 places: on
    damage_solar the best of nine. Patches are those of the two stages in the middle, on 14 x 14 places; 28 x 28 places
    tell no more of damage_cans and cost four times as much.
    """
    grids = [as_grid(stage.float()) for stage in stages]
    moments = tuple(
        torch.cat([grid.mean(dim=(2, 3)), grid.std(dim=(2, 3), correction=0)], dim=1).cpu() for grid in grids
    )
    second, last_but_one = min(1, len(grids) - 1), max(0, len(grids) - 2)
    layouts = [
        _square(images, THUMBNAIL_SIDE),
        *(_averaged(grids[each], _GRID_SIDE) for each in (second, last_but_one)),
    ]
    return PhotoFeatures(
        moments,
        tuple(layout.flatten(1).cpu() for layout in layouts),
        _averaged(local_patches(middle_stages(grids)), _PATCH_SIDE).flatten(2).transpose(1, 2).cpu(),
    )


def damaged_shares(masks: Sequence[np.ndarray], num_places: int = _PATCH_SIDE**2) -> Tensor:
    """Which share of each of the places of a photo is damaged, float16 [N, num_places]; masks are bool [H, W] each.

    Places form a square: 14 x 14, or fewer where a transformer has fewer tokens (the P of `PhotoFeatures.patches`).
    """
    side = math.isqrt(num_places)
    assert side**2 == num_places
    shares = [F.interpolate(torch.from_numpy(mask)[None, None].float(), (side, side), mode="area") for mask in masks]
    return torch.cat(shares).flatten(1).half()


def middle_stages(stages: Sequence[Tensor]) -> Sequence[Tensor]:
    """Two neighbouring stages: earlier ones know edges only, later ones only what ImageNet's classes differ in."""
    first = (len(stages) - 1) // 2
    return stages[first : first + 2]


def as_grid(stage: Tensor) -> Tensor:
    """[B, c, h, w] of a map, also of a ViT's tokens [B, c, tokens, 1], whose first ones are no places."""
    if stage.shape[3] > 1 or stage.shape[2] == 1:
        return stage
    side = math.isqrt(stage.shape[2])
    return stage[:, :, -side * side :, 0].unflatten(2, (side, side))


def _square(images: Tensor, side: int) -> Tensor:
    resized = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return resized[:, :3].expand(-1, 3, -1, -1)


def _averaged(grid: Tensor, side: int) -> Tensor:
    """Maps averaged over side x side cells, or as they are along a side that is shorter."""
    return F.adaptive_avg_pool2d(grid, (min(side, grid.shape[2]), min(side, grid.shape[3])))
