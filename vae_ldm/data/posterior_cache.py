"""Posteriors of every picture, computed once: the latents are drawn anew from them each time they are seen.

Caching one *sample* freezes its noise, measured elsewhere at 27.5 % of the latents' variance; so mean and log-variance
are kept (Kingma & Welling 2013, eq. 9 for the posterior).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from pytorch_lightning import LightningDataModule
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vae_ldm.data.pictures import Pictures
from vae_ldm.data.sampling import Batch, FixedBatches, Shares, batch_generator, endless_batches, place_of
from vae_ldm.errors import DataError
from vae_ldm.files import safe_name, write_whole
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.pixels import as_images
from vae_ldm.stored_json import StoredKind, content_of

Encode = Callable[[Tensor], DiagonalGaussianDistribution]
Progress = Callable[[int, int], None]

_INDEX = "index.json"
_KIND = StoredKind(newest=2, digest_from=2, unnumbered=1, cure="delete its folder, and it is made anew")
_DIGEST = ".sha256"


@dataclass(frozen=True)
class _Index:
    """What index.json holds."""

    key: str
    shard_size: int
    num_images: int
    shards: dict[str, str | None]
    """Name -> SHA-256 of each shard."""
    complete: bool


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
    interrupted call goes on where it stopped. The index is written last and makes the cache valid. `batch_size` is of
    pictures up to 256 px; larger ones are encoded fewer at once.

    Several processes share one disk: replica r of R writes every R-th shard, beginning with r, and the first one writes
    the index. `wait` comes back when all have called it.
    """
    names = [f"posteriors-{number:05d}.safetensors" for number in range(-(-len(pictures.ids) // shard_size))]
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"key": key, "shard_size": shard_size, "num_images": len(pictures.ids)}
        index = _read_index(folder)
        if index is None or any(index.get(name) != fact for name, fact in facts.items()):
            for stale in [*folder.glob("*.safetensors"), *folder.glob(f"*{_DIGEST}")]:
                stale.unlink()
            _write_index(folder, {**facts, "shards": {}, "complete": False})
    wait()
    for number in range(rank, len(names), num_replicas):
        name, start = names[number], number * shard_size
        stop = min(start + shard_size, len(pictures.ids))
        if _is_whole(folder / name, _read_digest(folder / name)):
            continue
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
                done = (number - rank) * shard_size + num_replicas * encoded
                progress(min(done, len(pictures.ids)), len(pictures.ids))
        part_file = folder / (name + ".part")
        # Contiguous: stacked views of one latent channel keep strides that safetensors refuses.
        save_file({part: torch.cat(values).contiguous() for part, values in parts.items()}, part_file)
        digest = _sha256(part_file)
        part_file.replace(folder / name)
        write_whole(_digest_file(folder / name), digest)
    wait()
    if rank == 0:
        shards = {name: _read_digest(folder / name) for name in names}
        _write_index(folder, {**facts, "shards": shards, "complete": True})
        for name in names:
            _digest_file(folder / name).unlink(missing_ok=True)
    wait()


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
    index = _read_index(folder)
    return (
        index is not None
        and index["key"] == key
        and index["complete"]
        and all(_is_whole(folder / name, digest) for name, digest in index["shards"].items())
    )


class PosteriorDataset(Dataset[dict[str, Tensor]]):
    """Batches of posteriors and prompts.

    `[batch]` gives `mean` and `std`, float32 [B, c, h, w], `prompt_ids`, int64 [B, L], and `index`, int64 [B]. With
    `augment`, for all or one boolean [N] for each, where the cache holds mirror images, each picture's view is drawn
    anew, by the seed and the batch's number.
    """

    def __init__(self, folder: Path, prompt_ids: Tensor, *, seed: int, augment: bool | np.ndarray) -> None:
        index = _read_index(folder)
        assert index is not None, f"{folder} holds no posteriors"
        shards = [load_file(folder / name) for name in sorted(index["shards"])]
        self.mean = torch.cat([shard["mean"] for shard in shards])
        self.std = torch.cat([shard["logvar"] for shard in shards]).mul_(0.5).exp_()
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


def _read_index(folder: Path) -> dict[str, Any] | None:
    """What the index says; None where there is none, or one that is not as it was written: all is encoded anew."""
    file = folder / _INDEX
    try:
        index = content_of(_KIND.read(file))
        _KIND.typed(file, _Index, index)
        for name in index["shards"]:
            safe_name(name, file)
    except (FileNotFoundError, DataError):
        return None
    return index


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    _KIND.write(folder / _INDEX, index)


def _digest_file(shard: Path) -> Path:
    return shard.with_name(shard.name + _DIGEST)


def _read_digest(shard: Path) -> str | None:
    """What its writer said of a shard: in a file of its own until the index is written."""
    file = _digest_file(shard)
    if file.is_file():
        return file.read_text()
    index = _read_index(shard.parent)
    return None if index is None else index["shards"].get(shard.name)


def _is_whole(shard: Path, digest: str | None) -> bool:
    return digest is not None and shard.is_file() and _sha256(shard) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
