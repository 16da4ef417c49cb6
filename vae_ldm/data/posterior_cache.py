"""Posteriors of every picture, computed once: the latents are drawn anew from them each time they are seen.

Caching one *sample* freezes its noise, measured elsewhere at 27.5 % of the latents' variance; so mean and log-variance
are kept (Kingma & Welling 2013, eq. 9 for the posterior).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vae_ldm.data.pictures import Pictures
from vae_ldm.data.sampling import Batch, FixedBatches, Shares, batch_generator, endless_batches, place_of
from vae_ldm.data.tensor_shards import has_shards, read_shards, write_shards
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.pixels import as_images

Encode = Callable[[Tensor], DiagonalGaussianDistribution]
Progress = Callable[[int, int], None]


def cache_posteriors(
    encode: Encode,
    pictures: Pictures,
    folder: Path,
    *,
    key: str,
    flips: bool = False,
    batch_size: int = 64,
    shard_size: int = 1024,
    progress: Progress | None = None,
    rank: int = 0,
    num_replicas: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """Writes mean and logvar [n, views, c, h, w] of `pictures` to safetensors shards in `folder`.

    `views` is 2 with `flips` (the picture and its mirror image), else 1. `key` stands for everything the numbers follow
    from (weights, transform, data): shards of another key are deleted, whole ones of this key are kept, so that an
    interrupted call goes on where it stopped. `batch_size` is of pictures up to 256 px; larger ones are encoded fewer
    at once. Several processes write as `write_shards` says.
    """
    total = len(pictures.ids)

    def make(start: int, stop: int) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {"mean": [], "logvar": []}
        encoded = 0
        for posterior in in_batches(
            partial(_encode_views, encode, flips=flips),
            pictures.images[start:stop],
            batch_size_for(pictures.images.shape[1:3], most=batch_size),
        ):
            for part, values in parts.items():
                values.append(posterior[part])
            if progress is not None:
                encoded += len(posterior["mean"])
                progress(min(start - rank * shard_size + num_replicas * encoded, total), total)
        return {part: torch.cat(values) for part, values in parts.items()}

    write_shards(
        make,
        total,
        folder,
        name="posteriors",
        key=key,
        shard_size=shard_size,
        rank=rank,
        num_replicas=num_replicas,
        wait=wait,
    )


@torch.no_grad()
def _encode_views(encode: Encode, images: np.ndarray, *, flips: bool) -> dict[str, Tensor]:
    batch = as_images(images)
    views = [batch, batch.flip(-1)] if flips else [batch]
    posteriors = [encode(view) for view in views]
    return {
        part: torch.stack([getattr(posterior, part).float().cpu() for posterior in posteriors], dim=1)
        for part in ("mean", "logvar")
    }


def has_posteriors(folder: Path, *, key: str) -> bool:
    """The folder holds a complete cache for `key` whose shards are as they were written."""
    return has_shards(folder, key=key)


class PosteriorDataset(Dataset[dict[str, Tensor]]):
    """Batches of posteriors and prompts.

    `[batch]` gives `mean` and `std`, float32 [B, c, h, w], `prompt_ids`, int64 [B, L], and `index`, int64 [B]. With
    `augment`, for all or one boolean [N] for each, where the cache holds mirror images, each picture's view is drawn
    anew, by the seed and the batch's number.
    """

    def __init__(self, folder: Path, prompt_ids: Tensor, *, seed: int, augment: bool | np.ndarray) -> None:
        shards = read_shards(folder)
        self.mean = shards["mean"]
        self.std = shards["logvar"].mul_(0.5).exp_()
        self.prompt_ids = prompt_ids
        self.seed = seed
        self.num_views = self.mean.shape[1] if np.any(augment) else 1
        self.augment = augment

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, batch: Batch) -> dict[str, Tensor]:
        views = batch_generator(self.seed, batch.number).integers(self.num_views, size=len(batch.indices))
        if isinstance(self.augment, np.ndarray):
            views *= self.augment[batch.indices]
        at = torch.from_numpy(batch.indices), torch.from_numpy(views)
        return {"mean": self.mean[at], "std": self.std[at], "prompt_ids": self.prompt_ids[at[0]], "index": at[0]}


class PosteriorDataModule(LightningDataModule):
    """Endless training batches and a fixed part of the validation pictures, from two posterior caches."""

    def __init__(
        self,
        train: PosteriorDataset,
        validation: PosteriorDataset,
        *,
        batch_size: int,
        seed: int,
        num_val_images: int,
        shares: Shares | None = None,
    ) -> None:
        """With `shares` every source of a mixture has its share of a training batch."""
        super().__init__()
        self.train, self.shares = train, shares
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed
        # Evenly spread: pictures lie class by class, so the first ones would be of one class.
        self.val_indices = np.linspace(0, len(validation) - 1, min(num_val_images, len(validation))).astype(np.int64)
        self.start_batch = 0
        """Number of batches all processes of an interrupted run had taken; set before training goes on."""

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        place = place_of(self.trainer)
        batches = endless_batches(
            len(self.train), self.batch_size, self.shares, seed=self.seed, start_batch=self.start_batch, **place
        )
        return DataLoader(self.train, sampler=batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        batches = FixedBatches(self.val_indices, self.batch_size, kinds=None, **place_of(self.trainer))
        return DataLoader(self.validation, sampler=batches, batch_size=None)
