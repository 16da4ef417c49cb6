"""Photos as the benchmarks of novelty read them, look at them and damage them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_ldm.data.made_damage import KINDS, DamageKind, MadeDamage
from vae_ldm.data.near_duplicates import difference_hash, duplicate_thumbnail
from vae_ldm.data.photo_groups import photo_groups
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.photo_stream import decode_within
from vae_ldm.desk.novelty.backbone_features import (
    as_grid,
    damaged_shares,
    features_from_stages,
    middle_stages,
    squares,
)
from vae_ldm.desk.novelty.observer import LONGEST_SIDE
from vae_ldm.latent_space.novelty_scores.patch_memory import local_patches
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures
from vae_ldm.models.vision_features import VisionFeatures


@torch.no_grad()
def looked_at(backbone: VisionFeatures, pictures: Sequence[np.ndarray]) -> Iterator[tuple[PhotoFeatures, Tensor]]:
    """Features, and the places of the anchor [B, h * w, C], of some photos after the others."""
    for start in range(0, len(pictures), 32):
        images = squares(pictures[start : start + 32])
        stages = backbone.stages(images)
        # In half precision, as a detector stores them.
        yield (
            features_from_stages(images, stages).half(),
            local_patches([as_grid(stage) for stage in middle_stages(stages)]).flatten(2).transpose(1, 2),
        )


def made_copies(
    backbone: VisionFeatures,
    sources: Sequence[tuple[int, int]],
    make: Callable[[DamageKind], list[MadeDamage]],
) -> MadeCopies:
    parts, masks = [], []
    for kind in KINDS:
        copies = make(kind)
        parts += [seen for seen, _ in looked_at(backbone, [each.image for each in copies])]
        masks.append(damaged_shares([each.mask for each in copies], parts[-1].patches.shape[1]))
    kinds = torch.arange(len(KINDS)).repeat_interleave(len(sources))
    return MadeCopies(PhotoFeatures.cat(parts), kinds, torch.tensor(sources).repeat(len(KINDS), 1), torch.cat(masks))


def read(
    folder: Path, label: str | None, max_good: int | None = None
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Good photos by name, or as many of them drawn at random, and all others; without a label all are good."""
    good: dict[str, np.ndarray] = {}
    others: list[np.ndarray] = []
    for record in photo_records(folder):
        picture = decode_within(record.picture, LONGEST_SIDE)
        if label is None or record.label == label:
            good[record.id] = picture
        else:
            others.append(picture)
    if max_good is not None and max_good < len(good):
        order = torch.randperm(len(good), generator=torch.Generator().manual_seed(0))[:max_good]
        names = list(good)
        good = {names[row]: good[names[row]] for row in order.tolist()}
    return good, others


def groups_of(photos: Sequence[tuple[str, np.ndarray]], series: str | None) -> Tensor:
    """Which photos stay together: int64 [N]."""
    return torch.from_numpy(
        photo_groups(
            [name for name, _ in photos],
            hashes=np.array([difference_hash(picture) for _, picture in photos]),
            thumbnails=np.stack([duplicate_thumbnail(picture) for _, picture in photos]),
            pattern=series,
        )
    )
