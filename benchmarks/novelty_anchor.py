"""The patch memory that `benchmarks/novelty.py` compares with, as anomalib's PatchCore has it."""

import math

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.patch_memory import farthest_first

ANCHOR_POOL, ANCHOR_SIZE = 60_000, 6_000
ANCHORS = ("anchor, largest", "anchor, worst 2 %", "anchor, mean")


class Anchor:
    """The memory of places, filled from the photos that it is shown."""

    def __init__(self, num_photos: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.a_photo = math.ceil(ANCHOR_POOL / num_photos)
        self.pool: list[Tensor] = []
        self.memory = torch.empty(0)

    def remember(self, patches: Tensor) -> None:
        for places in patches:
            self.pool.append(places[torch.randperm(len(places), generator=self.generator)[: self.a_photo]])

    def close(self) -> None:
        pool = torch.cat(self.pool)
        pool = pool[torch.randperm(len(pool), generator=self.generator)[:ANCHOR_POOL]]
        self.memory, self.pool = pool[farthest_first(pool, ANCHOR_SIZE)].clone(), []

    def maps(self, patches: Tensor) -> Tensor:
        """Distances [B, h, w] of places [B, h * w, C]."""
        squares = self.memory.square().sum(dim=1)
        nearest = [torch.addmm(squares, places, self.memory.T, alpha=-2).amin(dim=1) for places in patches]
        side = math.isqrt(patches.shape[1])
        distances = (torch.stack(nearest) + patches.square().sum(dim=2)).clamp(min=0).sqrt()
        return distances.unflatten(1, (side, side))


def anchor_scores(maps: Tensor) -> Tensor:
    """[N, 3] of maps [N, h, w], one of ANCHORS each."""
    distances = maps.flatten(1)
    strangest = distances.topk(max(1, round(distances.shape[1] * 0.02)), dim=1).values
    return torch.stack([distances.amax(dim=1), strangest.mean(dim=1), distances.mean(dim=1)], dim=1)
