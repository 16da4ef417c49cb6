"""What users hand over as images (paths, Pillow, arrays, tensors) as a network takes it: [B, C, H, W] in [-1, 1]."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vae_ldm.errors import DataError
from vae_ldm.models.photo_errors import why_unreadable
from vae_ldm.models.pillow_images import known_formats, to_eight_bits
from vae_ldm.paths import expanded

OneImage = str | Path | Image.Image | np.ndarray | Tensor
Images = OneImage | Sequence[str] | Sequence[Path] | Sequence[Image.Image] | Sequence[np.ndarray] | Sequence[Tensor]

_LUMA = (0.299, 0.587, 0.114)


def as_image_batch(images: Images, *, channels: int) -> Tensor:
    """Images [B, channels, H, W] in [-1, 1] of one image or several of equal size, float32 and contiguous.

    Paths of photos; Pillow images of any mode; arrays [H, W], [H, W, C] or [B, H, W, C]; tensors [C, H, W] or
    [B, C, H, W]. Integers are 8 or 16 bits wide, floats in [0, 1], as in diffusers. Grey is repeated, colour becomes
    grey by its luma, alpha is laid over white unless there are 4 channels.

    Raises DataError for anything else: other shapes, other ranges, sizes that differ, files that cannot be read.
    """
    several = list(images) if isinstance(images, list | tuple) else [images]
    if not several:
        raise DataError("no images given")
    batches = [_with_channels(_unit_floats(image, keep_alpha=channels == 4), channels) for image in several]
    sizes = {tuple(batch.shape[-2:]): None for batch in batches}
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise DataError(f"images of one call are of one size, these are of {shown}; give them one by one")
    return torch.cat(batches).mul_(2).sub_(1).contiguous()


def _opened(path: Path) -> Image.Image:
    """The photo in a file. Raises DataError where the file is not a picture that can be read."""
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder; give one photo' if path.is_dir() else 'no such photo'}")
    try:
        with Image.open(path, formats=known_formats()) as image:
            return ImageOps.exif_transpose(image)  # a copy, which outlives the open file
    except Exception as error:  # decoders fail in their own ways: OSError, SyntaxError, struct.error, ...
        start = None
        with suppress(OSError), path.open("rb") as file:
            start = file.read(12)
        raise DataError(f"{path}: cannot be read ({why_unreadable(error, start)})") from error


def _unit_floats(image: Any, *, keep_alpha: bool) -> Tensor:
    """Float32 [B, C, H, W] in [0, 1], a copy."""
    if isinstance(image, str | Path):
        image = _opened(expanded(image))
    if isinstance(image, Image.Image):
        image = np.asarray(to_eight_bits(ImageOps.exif_transpose(image), keep_alpha=keep_alpha))
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = image[..., None]
        batch = torch.from_numpy(_known_dtype(image)).movedim(-1, -3)
    elif isinstance(image, Tensor):
        batch = image.detach()
        if batch.ndim == 2:
            batch = batch[None]
    else:
        raise DataError(f"images are paths, Pillow images, arrays or tensors, not {type(image).__name__}")
    if batch.ndim == 3:
        batch = batch[None]
    if batch.ndim != 4 or batch.shape[1] not in (1, 3, 4) or 0 in batch.shape:
        raise DataError(
            f"images of shape {list(image.shape)} cannot be used: arrays are [H, W], [H, W, C] or [B, H, W, C], "
            "tensors [C, H, W] or [B, C, H, W], with C of 1, 3 or 4"
        )
    if batch.dtype in (torch.uint8, torch.uint16):
        return batch.to(torch.float32) / torch.iinfo(batch.dtype).max
    if not batch.is_floating_point():
        raise DataError(f"images of {batch.dtype} have no known range; give uint8, or floats in [0, 1]")
    low, high = batch.min().item(), batch.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN is refused
        raise DataError(f"float images are in [0, 1], these reach from {low:.3g} to {high:.3g}")
    return batch.to(torch.float32, copy=True)


def _known_dtype(image: np.ndarray) -> np.ndarray:
    """An array that torch takes over: writeable, in the machine's byte order; booleans are black and white."""
    if image.dtype == bool:
        return image.astype(np.float32)
    if image.dtype.kind not in "uif":
        raise DataError(f"arrays of {image.dtype} are no images; give uint8, or floats in [0, 1]")
    return image.astype(image.dtype.newbyteorder("="), order="C", copy=True)


def _with_channels(batch: Tensor, channels: int) -> Tensor:
    """The batch [B, *, H, W] in [0, 1] with this many channels."""
    if batch.shape[1] == channels:
        return batch
    if batch.shape[1] == 4:
        colors, alpha = batch.split([3, 1], dim=1)
        batch = colors * alpha + (1 - alpha)
    if channels == 1 and batch.shape[1] == 3:
        luma = torch.tensor(_LUMA, device=batch.device).view(1, 3, 1, 1)
        return (batch * luma).sum(dim=1, keepdim=True)
    if channels >= 3 and batch.shape[1] == 1:
        batch = batch.expand(-1, 3, -1, -1)
    if channels == 4:
        batch = torch.cat([batch, torch.ones_like(batch[:, :1])], dim=1)
    return batch
