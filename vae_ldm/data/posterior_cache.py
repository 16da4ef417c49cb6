"""Posteriors of every picture, computed once: the latents are drawn anew from them each time they are seen.

Caching one *sample* freezes its noise, measured elsewhere at 27.5 % of the latents' variance; so mean and log-variance
are kept (Kingma & Welling 2013, eq. 9 for the posterior).
"""

import hashlib
import json
from collections.abc import Callable
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
from vae_ldm.data.sampling import Batch, EndlessBatches, batch_generator
from vae_ldm.models.pixels import as_images

Encode = Callable[[Tensor], DiagonalGaussianDistribution]
Progress = Callable[[int, int], None]

_INDEX = "index.json"


def cache_posteriors(
    encode: Encode,
    pictures: Pictures,
    folder: Path,
    *,
    key: str,
    flips: bool = False,
    batch_size: int = 64,
    shard_size: int = 4096,
    progress: Progress | None = None,
) -> None:
    """Writes mean and logvar [n, views, c, h, w] of `pictures` to safetensors shards in `folder`.

    `views` is 2 with `flips` (the picture and its mirror image), else 1. `key` stands for everything the numbers follow
    from (weights, transform, data): shards of another key are deleted, whole ones of this key are kept, so that an
    interrupted call goes on where it stopped. The index is written last and makes the cache valid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = _read_index(folder)
    if index is None or index["key"] != key:
        for stale in folder.glob("*.safetensors"):
            stale.unlink()
        index = {"key": key, "num_images": len(pictures.ids), "shards": {}, "complete": False}
        _write_index(folder, index)
    for start in range(0, len(pictures.ids), shard_size):
        name = f"posteriors-{start // shard_size:05d}.safetensors"
        stop = min(start + shard_size, len(pictures.ids))
        if _is_whole(folder / name, index["shards"].get(name)):
            continue
        parts: dict[str, list[Tensor]] = {"mean": [], "logvar": []}
        for first in range(start, stop, batch_size):
            posterior = _encode_views(encode, pictures.images[first : min(first + batch_size, stop)], flips=flips)
            for part, values in parts.items():
                values.append(posterior[part])
            if progress is not None:
                progress(min(first + batch_size, stop), len(pictures.ids))
        part_file = folder / (name + ".part")
        # Contiguous: stacked views of one latent channel keep strides that safetensors refuses.
        save_file({part: torch.cat(values).contiguous() for part, values in parts.items()}, part_file)
        part_file.replace(folder / name)
        index["shards"][name] = _sha256(folder / name)
        _write_index(folder, index)
    index["complete"] = True
    _write_index(folder, index)


@torch.no_grad()
def _encode_views(encode: Encode, images: Any, *, flips: bool) -> dict[str, Tensor]:
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

    `[batch]` gives `mean` and `std`, float32 [B, c, h, w], and `prompt_ids`, int64 [B, L]. With `augment`, where the
    cache holds mirror images, each picture's view is drawn anew, by the seed and the batch's number.
    """

    def __init__(self, folder: Path, prompt_ids: Tensor, *, seed: int, augment: bool) -> None:
        index = _read_index(folder)
        assert index is not None, f"{folder} holds no posteriors"
        shards = [load_file(folder / name) for name in sorted(index["shards"])]
        self.mean = torch.cat([shard["mean"] for shard in shards])
        self.std = torch.cat([shard["logvar"] for shard in shards]).mul_(0.5).exp_()
        self.prompt_ids = prompt_ids
        self.seed = seed
        self.num_views = self.mean.shape[1] if augment else 1

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, batch: Batch) -> dict[str, Tensor]:
        views = batch_generator(self.seed, batch.number).integers(self.num_views, size=len(batch.indices))
        at = torch.from_numpy(batch.indices), torch.from_numpy(views)
        return {"mean": self.mean[at], "std": self.std[at], "prompt_ids": self.prompt_ids[at[0]]}


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
    ) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed
        # Evenly spread: pictures lie class by class, so the first ones would be of one class.
        self.val_indices = np.linspace(0, len(validation) - 1, min(num_val_images, len(validation))).astype(np.int64)
        self.start_batch = 0
        """Number of batches an interrupted run had taken; set before training goes on."""

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        batches = EndlessBatches(len(self.train), self.batch_size, seed=self.seed, start_batch=self.start_batch)
        return DataLoader(self.train, sampler=batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        firsts = range(0, len(self.val_indices), self.batch_size)
        batches = [Batch(i, self.val_indices[first : first + self.batch_size]) for i, first in enumerate(firsts)]
        return DataLoader(self.validation, sampler=batches, batch_size=None)


def _read_index(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / _INDEX).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    part = folder / (_INDEX + ".part")
    part.write_text(json.dumps(index, indent=1))
    part.replace(folder / _INDEX)


def _is_whole(shard: Path, digest: str | None) -> bool:
    return digest is not None and shard.is_file() and _sha256(shard) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
