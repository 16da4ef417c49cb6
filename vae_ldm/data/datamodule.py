"""Batches of pictures for training and validation, all randomness a function of seed and batch number."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vae_ldm.data.pictures import Pictures
from vae_ldm.data.random_views import jitter_colors, random_crops
from vae_ldm.data.sampling import Batch, FixedBatches, Shares, batch_generator, endless_batches, place_of
from vae_ldm.models.joined_pictures import of_one_size


class PictureBatches(Dataset[dict[str, Tensor]]):
    """Whole batches of a split by their `Batch`: images uint8 [B, C, H, W] and index int64 [B].

    A batch is one indexing operation on the memory map, not a loop over pictures; with a crop, only the crop is read.
    Images stay uint8 until they are on the device, which quarters what is moved there.

    The three settings of random views are those of all pictures, or one for each of them, [N].
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        seed: int = 0,
        horizontal_flip: bool | np.ndarray = False,
        color_jitter: float | np.ndarray = 0.0,
        random_resized_crop: bool | np.ndarray = False,
        crop_size: tuple[int, int] | None = None,
    ) -> None:
        self.pictures, self.seed = pictures, seed
        self.horizontal_flip, self.color_jitter = horizontal_flip, color_jitter
        self.random_resized_crop, self.crop_size = random_resized_crop, crop_size

    def __getitem__(self, batch: Batch) -> dict[str, Tensor]:
        rng = batch_generator(self.seed, batch.number)
        resized = _chosen(self.random_resized_crop, batch.indices)
        crops = random_crops(self.pictures.images, batch.indices, self.crop_size, rng, resized=resized)
        # Contiguous, because a network takes over the strides of its input and channels_last is slower on a CPU.
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
        if np.any(self.horizontal_flip):
            flipped = torch.from_numpy((rng.random(len(images)) < 0.5) & _chosen(self.horizontal_flip, batch.indices))
            images[flipped] = images[flipped].flip(-1)
        if np.any(self.color_jitter):
            images = jitter_colors(images, _chosen(self.color_jitter, batch.indices), rng)
        return {"images": images, "index": torch.from_numpy(batch.indices)}


def _chosen(setting: Any, indices: np.ndarray) -> Any:
    """The setting of these pictures: the same for all, or their rows of it."""
    return setting[indices] if isinstance(setting, np.ndarray) else setting


class ImageDataModule(pl.LightningDataModule):
    """Endless shuffled training batches, and a fixed sample of the validation pictures in order, whole and unchanged.

    With `shares` every source of a mixture has its share of a training batch. Validation batches are of one size each.

    Set `start_batch` to the number of batches that all processes together have taken before asking for the training
    loader: the run then goes on with the batch it would have met. Lightning must not put its own sampler in
    (`Trainer(use_distributed_sampler=False)`): on several processes each already takes its share.
    """

    def __init__(
        self,
        train: Pictures,
        validation: Pictures,
        *,
        batch_size: int,
        seed: int = 0,
        horizontal_flip: bool | np.ndarray = False,
        color_jitter: float | np.ndarray = 0.0,
        random_resized_crop: bool | np.ndarray = False,
        crop_size: tuple[int, int] | None = None,
        shares: Shares | None = None,
        num_val_images: int | None = 256,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.start_batch = 0
        self.train_batches = PictureBatches(
            train,
            seed=seed,
            horizontal_flip=horizontal_flip,
            color_jitter=color_jitter,
            random_resized_crop=random_resized_crop,
            crop_size=crop_size,
        )
        self.shares = shares
        self.validation_batches = PictureBatches(validation)
        num_val_images = min(num_val_images or len(validation), len(validation))
        # Evenly spaced, because pictures lie sorted by class.
        self.val_indices = np.linspace(0, len(validation) - 1, num_val_images).round().astype(np.int64)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        order = endless_batches(
            len(self.train_batches.pictures),
            self.batch_size,
            self.shares,
            seed=self.seed,
            start_batch=self.start_batch,
            **place_of(self.trainer),
        )
        return self._loader(self.train_batches, order)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        kinds = np.empty(len(self.validation_batches.pictures), np.int64)
        for number, (rows, _) in enumerate(of_one_size(self.validation_batches.pictures.images)):
            kinds[rows] = number  # a batch is of one size
        order = FixedBatches(self.val_indices, self.batch_size, kinds=kinds[self.val_indices], **place_of(self.trainer))
        return self._loader(self.validation_batches, order)

    def _loader(self, batches: PictureBatches, order: Any) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            batches,
            batch_size=None,  # the order gives whole batches, so the loader must not put any together
            sampler=order,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
