"""Places of photos never seen: patches compared with a memory of patches (PatchCore, Roth et al. 2022)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def local_patches(maps: Sequence[Tensor]) -> Tensor:
    """What each place and its eight neighbours show, [B, C, h, w]: feature maps [B, c_i, h_i, w_i], averaged over 3 x 3
    places, brought to the size of the first and stacked (section 3.1)."""
    size = maps[0].shape[-2:]
    pooled = [F.avg_pool2d(each, 3, stride=1, padding=1, count_include_pad=False) for each in maps]
    return torch.cat([F.interpolate(each, size, mode="bilinear", align_corners=False) for each in pooled], dim=1)


def farthest_first(points: Tensor, size: int) -> Tensor:
    """Indices of `size` points [N, C], each chosen as the farthest from all before it (greedy k-center, Gonzalez 1985).

    The first is the one farthest from the mean. Distances are taken in a random projection on 64 axes, as in PatchCore.
    """
    if len(points) <= size:
        return torch.arange(len(points))
    generator = torch.Generator().manual_seed(0)
    if points.shape[1] > 64:
        points = points @ torch.randn(points.shape[1], 64, generator=generator) / 8
    points = points - points.mean(dim=0)
    squares = points.square().sum(dim=1)
    chosen = [int(squares.argmax())]
    distances, last = torch.full_like(squares, torch.inf), torch.empty_like(squares)
    while len(chosen) < size:
        # |a - b|^2 = |a|^2 - 2 a.b + |b|^2, which reads the points once.
        torch.addmv(squares, points, points[chosen[-1]], alpha=-2, out=last)
        torch.minimum(distances, last.add_(squares[chosen[-1]]), out=distances)
        distances[chosen[-1]] = -1  # no rounding chooses it twice
        chosen.append(int(distances.argmax()))
    return torch.tensor(chosen)
