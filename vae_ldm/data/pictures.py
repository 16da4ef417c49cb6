"""Pictures at rest: uint8 arrays on disk, memory-mapped, which the page cache keeps in memory where they fit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Pictures:
    """One split, decoded and resized once."""

    images: np.ndarray
    """uint8 [N, H, W, C], C in 1, 3, 4; usually a read-only memory map."""
    labels: np.ndarray
    """int64 [N], index into class_names, -1 where a picture has no class."""
    captions: list[str]
    """N captions, "" where there is none."""
    ids: list[str]
    """N file names relative to the data's root, or row numbers."""
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map pickles as all of its bytes; a worker process is sent the file's name instead.
        return _unpickle, (_mapped_file(self.images), self.labels, self.captions, self.ids, self.class_names)


def _mapped_file(images: np.ndarray) -> Path | np.ndarray:
    """The .npy file that these images are all of; the images themselves where there is none."""
    if not isinstance(images, np.memmap) or images.filename is None:
        return images
    file = Path(images.filename)
    return file if file.stat().st_size == images.offset + images.nbytes else images


def _unpickle(images: Path | np.ndarray, *others: Any) -> Pictures:
    return Pictures(np.load(images, mmap_mode="r") if isinstance(images, Path) else images, *others)


@dataclass(frozen=True)
class PictureSplits:
    """What a run learns from and what it is judged on."""

    train: Pictures
    validation: Pictures
    unreadable: list[str]
    """A line for each picture left out: its id and the reason."""
    key: str
    """Changes with anything that the pictures, labels or captions follow from."""


def open_pictures(folder: Path, key: str | None) -> PictureSplits | None:
    """The pictures of a finished cache, of any key where that is None; None where there is no such cache."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if key not in (None, index["key"]):
            return None
        train, validation = (_open_split(folder, index, split) for split in ("train", "validation"))
    except (FileNotFoundError, KeyError, ValueError):
        return None
    return PictureSplits(train, validation, index["unreadable"], index["key"])


def _open_split(folder: Path, index: dict[str, Any], split: str) -> Pictures:
    images = np.load(folder / f"{split}.npy", mmap_mode="r")
    fields = index[split]
    if len(images) != len(fields["ids"]):
        raise ValueError(f"{split}.npy does not belong to index.json")
    labels = np.array(fields["labels"], np.int64)
    return Pictures(images, labels, fields["captions"], fields["ids"], index["class_names"])
