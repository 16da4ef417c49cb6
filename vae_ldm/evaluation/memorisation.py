"""Whether samples are new pictures: nearest training pictures, and how many samples are copies of them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.models.pixels import image_batches

COPY_RATIO = 1 / 3
HELD_OUT_QUANTILE = 0.01
PIXEL_SIDE = 32
"""The shorter side in px at which pixels are compared."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each of N pictures: its nearest training picture, its distance, and that of the second nearest, [N] each."""

    indices: Tensor
    distances: Tensor
    second_distances: Tensor

    def closest(self, count: int) -> list[int]:
        """Indices of the pictures nearest to a training picture: where a copy would show first."""
        return self.distances.argsort()[:count].tolist()


def nearest_neighbours(queries: Tensor, references: Tensor, chunk_size: int = 256) -> Neighbours:
    """The two nearest rows of `references` [M, D] to each of `queries` [N, D], by Euclidean distance."""
    if len(references) == 1:
        references = references.expand(2, -1)
    rows = torch.cat([torch.cdist(q, references).topk(2, largest=False).indices for q in queries.split(chunk_size)])
    # cdist multiplies matrices, which blurs the distance of a copy; the two that matter are computed again.
    exact = torch.stack([(queries - references[rows[:, i]]).norm(dim=1) for i in range(2)], dim=1)
    exact, order = exact.sort(dim=1)
    return Neighbours(rows.gather(1, order)[:, 0], exact[:, 0], exact[:, 1])


def nearest_in_features(queries: Tensor, references: Tensor) -> Neighbours:
    """Nearest by direction of embeddings [N, D] against [M, D]: distances of unit vectors, in [0, 2]."""
    return nearest_neighbours(F.normalize(queries, dim=1), F.normalize(references, dim=1))


def nearest_in_pixels(queries: np.ndarray, references: np.ndarray, *, side: int = PIXEL_SIDE) -> Neighbours:
    """Nearest by root mean square pixel difference in [0, 2], a picture or its mirror image, the nearer of the two.

    uint8 [N, H, W, C] against [M, H, W, C]; compared with the shorter side at `side` px at most.
    """
    return nearest_in_flat_pixels(queries, flat_pixels(references, side), side=side)


def nearest_in_flat_pixels(queries: np.ndarray, references: Tensor, *, side: int = PIXEL_SIDE) -> Neighbours:
    """`nearest_in_pixels` against `flat_pixels` of the references, for queries that come bit by bit."""
    plain = nearest_neighbours(flat_pixels(queries, side), references)
    mirrored = nearest_neighbours(flat_pixels(queries[:, :, ::-1], side), references)
    nearer = mirrored.distances < plain.distances
    return Neighbours(
        torch.where(nearer, mirrored.indices, plain.indices),
        torch.where(nearer, mirrored.distances, plain.distances),
        torch.where(nearer, mirrored.second_distances, plain.second_distances),
    )


def flat_pixels(pictures: np.ndarray, side: int = PIXEL_SIDE) -> Tensor:
    """Vectors [N, C * h * w] whose distance is the root mean square difference of the shrunken pictures."""
    small = shrink(pictures, side)
    return small.flatten(1) / small[0].numel() ** 0.5


def shrink(pictures: np.ndarray, side: int) -> Tensor:
    """Images [N, C, h, w] in [-1, 1] whose shorter side is `side` px, or less where it was less."""
    scale = side / min(pictures.shape[1:3])
    if scale >= 1:
        return torch.cat(list(image_batches(pictures, 256)))
    size = tuple(round(length * scale) for length in pictures.shape[1:3])
    return torch.cat([F.interpolate(b, size, mode="bilinear", antialias=True) for b in image_batches(pictures, 256)])


def too_near(samples: Neighbours, held_out: Neighbours) -> Tensor:
    """[N] booleans: nearer to a training picture than 99 in 100 held-out pictures are (after Meehan 2020).

    Samples that only resemble the training set, as held-out pictures do, give 1 in 100. Blind where held-out
    pictures are near copies of training pictures themselves.
    """
    return samples.distances < held_out.distances.quantile(HELD_OUT_QUANTILE)


def copies(samples: Neighbours) -> Tensor:
    """[N] booleans: the nearest training picture is over three times nearer than the second (Yoon 2023).

    Needs no held-out pictures; blind where the copied picture is in the training set twice.
    """
    return samples.distances < COPY_RATIO * samples.second_distances
