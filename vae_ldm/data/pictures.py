"""Pictures at rest: uint8 arrays on disk, memory-mapped, which the page cache keeps in memory where they fit."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.data.stored_pictures import StoredPictures, read_stored
from vae_ldm.models.joined_pictures import JoinedPictures, PictureArray


@dataclass(frozen=True, eq=False)
class Pictures:
    """One split, decoded and resized once."""

    images: PictureArray
    """uint8 [N, H, W, C], C in 1, 3, 4; usually a read-only memory map, of a mixture several of one size or more."""
    labels: np.ndarray
    """int64 [N], index into class_names, -1 where a picture has no class."""
    captions: list[str]
    """N captions, "" where there is none."""
    ids: list[str]
    """N names, valid Unicode: of files relative to the data's root, or of rows."""
    class_names: list[str]
    source_counts: tuple[int, ...] | None = None
    """How many of the N each source of a mixture has, in their order; None for pictures of one source."""

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map pickles as all of its bytes; a worker process is sent the file's name instead.
        images = self.images
        if isinstance(images, JoinedPictures):
            files: Any = [_mapped_file(array) for array in images.arrays], images.array_of, images.row_of
        else:
            files = _mapped_file(images)
        return _unpickle, (files, self.labels, self.captions, self.ids, self.class_names, self.source_counts)


def _mapped_file(images: np.ndarray) -> Path | np.ndarray:
    """The .npy file that these images are all of; the images themselves where there is none."""
    if not isinstance(images, np.memmap) or images.filename is None:
        return images
    file = Path(images.filename)
    return file if file.stat().st_size == images.offset + images.nbytes else images


def _unpickle(images: Any, *others: Any) -> Pictures:
    if not isinstance(images, tuple):
        return Pictures(_opened(images), *others)
    files, array_of, row_of = images
    return Pictures(JoinedPictures([_opened(file) for file in files], array_of, row_of), *others)


def _opened(images: Path | np.ndarray) -> np.ndarray:
    return np.load(images, mmap_mode="r") if isinstance(images, Path) else images


@dataclass(frozen=True)
class PictureSplits:
    """What a run learns from and what it is judged on."""

    train: Pictures
    validation: Pictures
    unreadable: list[str]
    """A line for each picture left out: its id and the reason."""
    key: str
    """Changes with any picture, label, caption or id: equal keys, equal pictures, whatever they were decoded from."""

    @property
    def trained_classes(self) -> list[int]:
        """The classes, as indices into class_names, that have a training picture; only these has a model learned."""
        labels = self.train.labels
        return [int(label) for label in np.unique(labels[labels >= 0])]


def open_pictures(folder: Path, source_keys: Collection[str] | None = None) -> PictureSplits | None:
    """The pictures of a finished cache, made from any source where `source_keys` is None; None where there is none.

    Raises DamagedPicturesError where the cache is not as it was written.
    """
    stored = read_stored(folder)
    return None if stored is None or (source_keys and stored.source_key not in source_keys) else splits_of(stored)


def splits_of(stored: StoredPictures) -> PictureSplits:
    """A stored cache as pictures."""
    index = stored.index
    # Format 1 numbered the rows of a data set from 0 in each split; ids are now those of format 2.
    collide = not set(index["train"]["ids"]).isdisjoint(index["validation"]["ids"])
    train, validation = (
        Pictures(
            stored.images[split],
            np.array(index[split]["labels"], np.int64),
            index[split]["captions"],
            [f"{split}/{name}" for name in index[split]["ids"]] if collide else index[split]["ids"],
            index["class_names"],
        )
        for split in ("train", "validation")
    )
    return PictureSplits(train, validation, index["unreadable"], stored.key)
