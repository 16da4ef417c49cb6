"""Photos that a user names, in bounded memory: a folder of any layout or one file, decoded batch by batch."""

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from vae_ldm.choices import Resize
from vae_ldm.data.decoding import UnreadablePictureError, decode_picture, pillow_limit_lifted
from vae_ldm.data.image_folder import SPLIT_NAMES
from vae_ldm.data.listing import existing_folder, find_photos, tell_left_out
from vae_ldm.data.metadata import CAPTION_COLUMNS, read_metadata
from vae_ldm.data.names import as_text
from vae_ldm.data.sources import Record
from vae_ldm.errors import DataError
from vae_ldm.models.image_input import OneImage, as_image_batch
from vae_ldm.models.pixels import as_pictures

Photos = OneImage | Record | Sequence[OneImage] | Sequence[Record]


@dataclass(frozen=True, eq=False)
class PhotoBatch:
    """Some photos, decoded at one or several sizes."""

    records: list[Record]
    images: tuple[np.ndarray, ...]
    """One array uint8 [B, height, width, C] for each size asked for."""

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


def photo_records(photos: Path | str, *, caption_column: str | None = None) -> list[Record]:
    """Every picture below a folder, or the one file: all splits, in the order of their names; nothing is decoded.

    An id is the path relative to the folder, as text. The class is the name of the picture's own folder, unless that is
    the folder itself or one of a split (`train/dress/1.jpg` is a dress, `train/1.jpg` nothing). Class and caption of a
    metadata file win; without `caption_column` its column `caption` or `text` is taken where there is one. What else
    lies in the folder is told where it could be a photo.

    Raises DataError where the path does not exist, or holds no picture.
    """
    try:
        path = Path(photos).expanduser()
    except RuntimeError:  # ~NAME of an unknown user, which existing_folder explains
        path = Path(photos)
    if path.is_file():
        return [Record(as_text(path.name), path)]
    found = find_photos(existing_folder(path))
    tell_left_out(found)
    described = read_metadata(found.folder, found.metadata, caption_column or CAPTION_COLUMNS)
    return [
        described.get(name) or Record(as_text(name), found.folder / name, _folder_label(name))
        for name in found.pictures
    ]


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
    for start in range(0, len(records), batch_size):
        kept: list[Record] = []
        decoded: list[list[np.ndarray]] = []
        for record in records[start : start + batch_size]:
            try:
                with pillow_limit_lifted():
                    one = [
                        decode_picture(
                            record.picture, image_size=size, channels=channels, resize=resize, max_pixels=max_pixels
                        )
                        for size in image_sizes
                    ]
            except UnreadablePictureError as error:
                if on_unreadable is not None:
                    on_unreadable(record, str(error))
                continue
            kept.append(record)
            decoded.append(one)
        if kept:
            yield PhotoBatch(kept, tuple(np.stack(images) for images in zip(*decoded, strict=True)))


def _folder_label(name: str) -> str | None:
    folder = posixpath.basename(posixpath.dirname(name))
    return as_text(folder) if folder and folder.lower() not in SPLIT_NAMES else None
