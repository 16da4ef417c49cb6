"""Batches of pictures for training and validation, all randomness a function of seed and batch number."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vae_ldm.data.pictures import Pictures
from vae_ldm.data.sampling import Batch, EndlessBatches, FixedBatches, batch_generator, place_of

_LUMA = (0.299, 0.587, 0.114)


class PictureBatches(Dataset[dict[str, Tensor]]):
    """Whole batches of a split by their `Batch`: images uint8 [B, C, H, W] and index int64 [B].

    A batch is one indexing operation on the memory map, not a loop over pictures; with a crop, only the crop is read.
    Images stay uint8 until they are on the device, which quarters what is moved there.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        seed: int = 0,
        horizontal_flip: bool = False,
        color_jitter: float = 0.0,
        crop_size: tuple[int, int] | None = None,
    ) -> None:
        self.pictures, self.seed = pictures, seed
        self.horizontal_flip, self.color_jitter, self.crop_size = horizontal_flip, color_jitter, crop_size

    def __getitem__(self, batch: Batch) -> dict[str, Tensor]:
        rng = batch_generator(self.seed, batch.number)
        crops = random_crops(self.pictures.images, batch.indices, self.crop_size, rng)
        # Contiguous, because a network takes over the strides of its input and channels_last is slower on a CPU.
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
        if self.horizontal_flip:
            flipped = torch.from_numpy(rng.random(len(images)) < 0.5)
            images[flipped] = images[flipped].flip(-1)
        if self.color_jitter > 0:
            images = jitter_colors(images, self.color_jitter, rng)
        return {"images": images, "index": torch.from_numpy(batch.indices)}


class ImageDataModule(pl.LightningDataModule):
    """Endless shuffled training batches, and a fixed sample of the validation pictures in order, whole and unchanged.

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
        horizontal_flip: bool = False,
        color_jitter: float = 0.0,
        crop_size: tuple[int, int] | None = None,
        num_val_images: int | None = 256,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.start_batch = 0
        self.train_batches = PictureBatches(
            train, seed=seed, horizontal_flip=horizontal_flip, color_jitter=color_jitter, crop_size=crop_size
        )
        self.validation_batches = PictureBatches(validation)
        num_val_images = min(num_val_images or len(validation), len(validation))
        # Evenly spaced, because pictures lie sorted by class.
        self.val_indices = np.linspace(0, len(validation) - 1, num_val_images).round().astype(np.int64)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        order = EndlessBatches(
            len(self.train_batches.pictures),
            self.batch_size,
            seed=self.seed,
            start_batch=self.start_batch,
            **place_of(self.trainer),
        )
        return self._loader(self.train_batches, order)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        order = FixedBatches(self.val_indices, self.batch_size, **place_of(self.trainer))
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


def random_crops(
    images: np.ndarray, indices: np.ndarray, crop_size: tuple[int, int] | None, rng: np.random.Generator
) -> np.ndarray:
    """A copy of the images [B, h, w, C] at these indices, each cut at a place of its own; None: whole."""
    if crop_size is None:
        return images[indices]
    height, width = crop_size
    top = rng.integers(0, images.shape[1] - height + 1, size=len(indices))
    left = rng.integers(0, images.shape[2] - width + 1, size=len(indices))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def jitter_colors(images: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """uint8 [B, C, H, W] with brightness, contrast and saturation, in this order, each scaled by 1 +- strength.

    One uniform factor a picture; contrast is about the picture's mean grey, saturation about each pixel's own grey
    (none for 1 channel). Alpha stays as it is. All three are linear, so a picture takes one 3x3 matrix and one offset.
    """
    factors = rng.uniform(1 - strength, 1 + strength, (3, len(images), 1, 1)).astype(np.float32)
    brightness, contrast, saturation = torch.from_numpy(factors)
    colors = images[:, :3].flatten(2).float()
    num_colors = colors.shape[1]
    luma = torch.tensor(_LUMA if num_colors == 3 else (1.0,)).expand(num_colors, num_colors)  # each row makes grey
    mix = saturation * torch.eye(num_colors) + (1 - saturation) * luma
    mean = (luma[:1] @ colors).mean(dim=-1, keepdim=True)
    colors = torch.baddbmm((1 - contrast) * brightness * mean, contrast * brightness * mix, colors)
    jittered = images.clone()
    jittered[:, :3] = colors.round_().clamp_(0, 255).unflatten(2, images.shape[2:])
    return jittered
