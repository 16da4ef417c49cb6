"""Pictures seen anew each time: random crops of a random scale, and light and colour that vary a little."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_ldm.models.joined_pictures import JoinedPictures, PictureArray

_LUMA = (0.299, 0.587, 0.114)


def random_crops(
    images: PictureArray,
    indices: np.ndarray,
    crop_size: tuple[int, int] | None,
    rng: np.random.Generator,
    *,
    resized: bool | np.ndarray = False,
) -> np.ndarray:
    """A copy of the images [B, h, w, C] at these indices, each cut at a place of its own; None: whole.

    Where `resized`, for all or one boolean [B] for each, what is cut has an area between that of the crop and that of
    the largest piece of its proportions, evenly distributed, and is reduced to the crop.
    """
    if crop_size is None:
        return images[indices]
    if isinstance(images, JoinedPictures):
        crops = np.empty((len(indices), *crop_size, images.channels), np.uint8)
        array_of, row_of = images.array_of[indices], images.row_of[indices]
        for number in np.unique(array_of):
            rows = np.flatnonzero(array_of == number)
            some = resized[rows] if isinstance(resized, np.ndarray) else resized
            crops[rows] = random_crops(images.arrays[number], row_of[rows], crop_size, rng, resized=some)
        return crops
    if isinstance(resized, np.ndarray):
        crops = np.empty((len(indices), *crop_size, images.shape[-1]), np.uint8)
        for rows, flag in ((np.flatnonzero(resized), True), (np.flatnonzero(~resized), False)):
            if len(rows):
                crops[rows] = random_crops(images, indices[rows], crop_size, rng, resized=flag)
        return crops
    if resized:
        return _resized_crops(images, indices, crop_size, rng)
    height, width = crop_size
    top = rng.integers(0, images.shape[1] - height + 1, size=len(indices))
    left = rng.integers(0, images.shape[2] - width + 1, size=len(indices))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def _resized_crops(
    images: np.ndarray, indices: np.ndarray, crop_size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    height, width = crop_size
    largest = min(images.shape[1] / height, images.shape[2] / width)
    crops = np.empty((len(indices), height, width, images.shape[-1]), np.uint8)
    for crop, index, (area, down, right) in zip(crops, indices, rng.random((len(indices), 3)), strict=True):
        scale = math.sqrt(1 + area * (largest**2 - 1))
        tall, wide = min(images.shape[1], round(height * scale)), min(images.shape[2], round(width * scale))
        top, left = int(down * (images.shape[1] - tall + 1)), int(right * (images.shape[2] - wide + 1))
        piece = images[index, top : top + tall, left : left + wide]
        if (tall, wide) != crop_size:
            # Pillow filters over all pixels that a new one stands for, so that nothing is aliased.
            pillow = Image.fromarray(piece[..., 0] if piece.shape[-1] == 1 else piece)
            piece = np.asarray(pillow.resize((width, height), Image.Resampling.BICUBIC)).reshape(crop.shape)
        crop[:] = piece
    return crops


def jitter_colors(images: Tensor, strength: float | np.ndarray, rng: np.random.Generator) -> Tensor:
    """uint8 [B, C, H, W] with brightness, contrast and saturation, in this order, each scaled by 1 +- strength.

    The strength is one number, or one [B] for each picture.
    One uniform factor a picture; contrast is about the picture's mean grey, saturation about each pixel's own grey
    (none for 1 channel). Alpha stays as it is. All three are linear, so a picture takes one 3x3 matrix and one offset.
    """
    if isinstance(strength, np.ndarray):
        strength = strength[:, None, None]
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
