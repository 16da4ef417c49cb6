"""Photos that a user names, in bounded memory: a folder of any layout or one file, decoded batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from vae_ldm.choices import Resize
from vae_ldm.data.decoding import (
    Picture,
    UnreadablePictureError,
    decode_picture,
    pillow_limit_lifted,
    upright_size,
)
from vae_ldm.data.names import as_text
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.sources import Record
from vae_ldm.errors import DataError
from vae_ldm.models.image_input import OneImage, as_image_batch
from vae_ldm.models.pixels import as_pictures

T = TypeVar("T")
Photos = OneImage | Record | Sequence[OneImage] | Sequence[Record]


@dataclass(frozen=True, eq=False)
class PhotoBatch:
    """Some photos, decoded at one or several sizes."""

    records: list[Record]
    images: tuple[np.ndarray, ...]
    """One array uint8 [B, height, width, C] for each size asked for."""

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, eq=False)
class WholePhotos:
    """Some photos, decoded whole: each keeps its own proportions."""

    records: list[Record]
    pictures: list[np.ndarray]
    """uint8 [H, W, C] each."""

    def __len__(self) -> int:
        return len(self.records)


def records_of(photos: Photos) -> list[Record]:
    """Records of whatever names or holds photos: what `photo_records` takes, one image, or several of either.

    Images are those of `image_input`; a path of a folder is all of its photos. Raises DataError for anything else.
    """
    if isinstance(photos, str | Path):
        return photo_records(photos)
    if isinstance(photos, Record):
        return [photos]
    if isinstance(photos, Image.Image):
        return [Record(as_text(Path(getattr(photos, "filename", "") or "picture").name), photos)]
    if isinstance(photos, np.ndarray | Tensor):
        pixels = as_pictures(as_image_batch(photos, channels=3))
        return [Record("picture", Image.fromarray(each)) for each in pixels]
    if not isinstance(photos, Sequence):
        raise DataError(f"photos are paths, Pillow images, arrays, tensors or records, not {type(photos).__name__}")
    return [record for photo in photos for record in records_of(photo)]


def decoded_batches(
    records: Sequence[Record],
    image_sizes: Sequence[tuple[int, int]],
    *,
    channels: int,
    resize: Resize = "crop",
    batch_size: int = 32,
    max_pixels: int = 89_478_485,
    on_unreadable: Callable[[Record, str], None] | None = None,
) -> Iterator[PhotoBatch]:
    """The photos in order, each at every size (height, width); those that cannot be read are told and passed over."""

    def decode(record: Record) -> list[np.ndarray]:
        return [
            decode_picture(record.picture, image_size=size, channels=channels, resize=resize, max_pixels=max_pixels)
            for size in image_sizes
        ]

    for kept, decoded in _readable_batches(records, decode, batch_size, on_unreadable):
        yield PhotoBatch(kept, tuple(np.stack(images) for images in zip(*decoded, strict=True)))


def whole_batches(
    records: Sequence[Record],
    longest_side: int,
    *,
    batch_size: int = 32,
    on_unreadable: Callable[[Record, str], None] | None = None,
) -> Iterator[WholePhotos]:
    """The photos in order, whole, with 3 channels, the longer side brought to `longest_side` px where it is longer.

    Photos that cannot be read are told and passed over.
    """
    for kept, decoded in _readable_batches(
        records, lambda record: decode_within(record.picture, longest_side), batch_size, on_unreadable
    ):
        yield WholePhotos(kept, decoded)


def decode_within(picture: Picture, longest_side: int) -> np.ndarray:
    """uint8 [H, W, 3] of a picture, whole and upright; the longer of H and W is `longest_side` at most.

    Raises UnreadablePictureError where the picture cannot be used.
    """
    sides = upright_size(picture)
    scale = min(1.0, longest_side / max(sides))
    height, width = (max(1, round(side * scale)) for side in sides)
    return decode_picture(picture, image_size=(height, width), channels=3)


def _readable_batches(
    records: Sequence[Record],
    decode: Callable[[Record], T],
    batch_size: int,
    on_unreadable: Callable[[Record, str], None] | None,
) -> Iterator[tuple[list[Record], list[T]]]:
    """What `decode` gives for the records of each batch whose photos can be read; a batch of none is passed over."""
    for start in range(0, len(records), batch_size):
        kept: list[Record] = []
        decoded: list[T] = []
        for record in records[start : start + batch_size]:
            try:
                with pillow_limit_lifted():
                    decoded.append(decode(record))
            except UnreadablePictureError as error:
                if on_unreadable is not None:
                    on_unreadable(record, str(error))
                continue
            kept.append(record)
        if kept:
            yield kept, decoded
