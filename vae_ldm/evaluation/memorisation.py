"""Whether samples are new pictures: nearest training pictures, and how many samples are copies of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.models.batches import batch_size_for
from vae_ldm.models.joined_pictures import PictureArray
from vae_ldm.models.pixels import image_batches

COPY_RATIO = 1 / 3
HELD_OUT_QUANTILE = 0.01
PIXEL_SIDE = 32
"""The shorter side in px at which pixels are compared."""
SAME = 1e-3
"""Pictures at most this far apart are one and the same: rounding, an eighth of a grey level in the mean."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest training picture of each of N pictures and its distance, [N] each, and what lies behind that one.

    `second_distances` [N] are those of the nearest training picture that differs from `indices`; where all are the same
    picture, the distance to that one.
    """

    indices: Tensor
    distances: Tensor
    second_distances: Tensor

    def closest(self, count: int) -> list[int]:
        """Indices of the pictures nearest to a training picture: where a copy would show first."""
        return self.distances.argsort()[:count].tolist()

    @property
    def duplicates(self) -> Tensor:
        """[N] booleans: the picture is itself among the training pictures."""
        return self.distances <= SAME


def nearest_neighbours(queries: Tensor, references: Tensor, chunk_size: int = 256) -> Neighbours:
    """The two nearest rows of `references` [M, D] that differ, to each of `queries` [N, D], by Euclidean distance."""
    found = [_nearest_two(chunk, references) for chunk in queries.split(chunk_size)]
    return Neighbours(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _nearest_two(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the nearest reference, the distance to it, and to the nearest one that differs from it: [N] each."""
    between = torch.cdist(queries, references)
    count = min(4, len(references))
    while True:
        rows = between.topk(count, largest=False).indices
        # cdist multiplies matrices, which blurs the distance of a copy; the few that matter are computed again.
        exact = (queries[:, None] - references[rows]).norm(dim=2)
        exact, order = exact.sort(dim=1)
        rows = rows.gather(1, order)
        differs = (references[rows] - references[rows[:, :1]]).norm(dim=2) > SAME
        if differs.any(dim=1).all() or count == len(references):
            break
        count = min(4 * count, len(references))  # a picture that is there more than `count` times
    second = torch.where(differs, exact, torch.inf).amin(dim=1)
    return rows[:, 0], exact[:, 0], torch.where(differs.any(dim=1), second, exact[:, 0])


def nearest_in_features(queries: Tensor, references: Tensor) -> Neighbours:
    """Nearest by direction of embeddings [N, D] against [M, D]: distances of unit vectors, in [0, 2]."""
    return nearest_neighbours(F.normalize(queries, dim=1), F.normalize(references, dim=1))


def nearest_in_pixels(queries: PictureArray, references: PictureArray, *, side: int = PIXEL_SIDE) -> Neighbours:
    """Nearest by root mean square pixel difference in [0, 2], a picture or its mirror image, the nearer of the two.

    uint8 [N, H, W, C] against [M, H, W, C]; compared with the shorter side at `side` px at most.
    """
    return nearest_in_flat_pixels(queries, flat_pixels(references, side), side=side)


def nearest_in_flat_pixels(queries: PictureArray, references: Tensor, *, side: int = PIXEL_SIDE) -> Neighbours:
    """`nearest_in_pixels` against `flat_pixels` of the references, for queries that come bit by bit."""
    plain = nearest_neighbours(flat_pixels(queries, side), references)
    mirrored = nearest_neighbours(flat_pixels(queries[:, :, ::-1], side), references)
    nearer = mirrored.distances < plain.distances
    return Neighbours(
        torch.where(nearer, mirrored.indices, plain.indices),
        torch.where(nearer, mirrored.distances, plain.distances),
        torch.where(nearer, mirrored.second_distances, plain.second_distances),
    )


def flat_pixels(pictures: PictureArray, side: int = PIXEL_SIDE) -> Tensor:
    """Vectors [N, C * h * w] whose distance is the root mean square difference of the shrunken pictures."""
    small = shrink(pictures, side)
    return small.flatten(1) / small[0].numel() ** 0.5


def shrink(pictures: PictureArray, side: int) -> Tensor:
    """Images [N, C, h, w] in [-1, 1] whose shorter side is `side` px, or less where it was less."""
    height, width = pictures.shape[1:3]
    at_once = batch_size_for((height, width), most=256)
    scale = side / min(height, width)
    if scale >= 1:
        return torch.cat(list(image_batches(pictures, at_once)))
    size = (round(height * scale), round(width * scale))
    batches = image_batches(pictures, at_once)
    return torch.cat([F.interpolate(batch, size, mode="bilinear", antialias=True) for batch in batches])


def too_near(samples: Neighbours, held_out: Neighbours) -> Tensor:
    """[N] booleans: as near to a training picture as the nearest 1 in 100 held-out pictures are (after Meehan 2020).

    Samples that only resemble the training set, as held-out pictures do, give 1 in 100. Held-out pictures that are
    training pictures themselves set no bar. Blind where held-out pictures are near copies that are not quite the same.
    """
    apart = held_out.distances[~held_out.duplicates]
    bar = apart.quantile(HELD_OUT_QUANTILE).clamp(min=SAME) if len(apart) else torch.tensor(SAME)
    return samples.distances <= bar


def copies(samples: Neighbours) -> Tensor:
    """[N] booleans: at most a third as far from the nearest training picture as from the next other one (Yoon 2023).

    Needs no held-out pictures. A training picture that is there twice counts once; blind where it is there again
    with a difference.
    """
    return samples.distances <= COPY_RATIO * samples.second_distances
