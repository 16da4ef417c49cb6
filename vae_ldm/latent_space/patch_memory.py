"""Places of photos never seen: patches compared with a memory of patches (PatchCore, Roth et al. 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.latent_space.stored_tensors import check_lengths


def local_patches(maps: Sequence[Tensor]) -> Tensor:
    """What each place and its eight neighbours show, [B, C, h, w]: feature maps [B, c_i, h_i, w_i], averaged over 3 x 3
    places, brought to the size of the first and stacked (section 3.1)."""
    size = maps[0].shape[-2:]
    pooled = [F.avg_pool2d(each, 3, stride=1, padding=1, count_include_pad=False) for each in maps]
    return torch.cat([F.interpolate(each, size, mode="bilinear", align_corners=False) for each in pooled], dim=1)


@dataclass(frozen=True, eq=False)
class PatchMemory:
    """Patches of reference photos, thinned out so that they still cover what these show."""

    patches: Tensor
    """[M, C], standardised"""
    mean: Tensor
    """[C]"""
    std: Tensor
    """[C]"""

    @classmethod
    def fit(cls, patches: Tensor, *, size: int = 1024) -> Self:
        """The memory fitted on patches [N, C], at most `size` of which are kept."""
        mean, std = patches.mean(dim=0), patches.std(dim=0, correction=0)
        std = std.clamp(min=1e-3 * std.max().item() + 1e-12)
        standardised = (patches - mean) / std
        return cls(standardised[farthest_first(standardised, size)].clone(), mean, std)

    def __call__(self, patches: Tensor) -> Tensor:
        """Distances [B, P] of patches [B, P, C] to the nearest kept one, in standard deviations a channel."""
        check_lengths(self.mean, patches)
        flat = ((patches - self.mean) / self.std).flatten(0, 1)
        nearest = torch.cat([torch.cdist(some, self.patches).amin(dim=1) for some in flat.split(4096)])
        return nearest.view(patches.shape[:2]) / patches.shape[2] ** 0.5


def farthest_first(points: Tensor, size: int) -> Tensor:
    """Indices of `size` points [N, C], each chosen as the farthest from all before it (greedy k-center, Gonzalez 1985).

    The first is the one farthest from the mean. Distances are taken in a random projection on 64 axes, as in PatchCore.
    """
    if len(points) <= size:
        return torch.arange(len(points))
    generator = torch.Generator().manual_seed(0)
    if points.shape[1] > 64:
        points = points @ torch.randn(points.shape[1], 64, generator=generator) / 8
    distances = (points - points.mean(dim=0)).square().sum(dim=1)
    chosen = [int(distances.argmax())]
    distances = torch.full_like(distances, torch.inf)
    while len(chosen) < size:
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(distances.argmax()))
    return torch.tensor(chosen)
