"""The facts of a cache of pictures as they are stored: index.json, and digests of the two arrays beside it.

Format 2 holds `source_key` (what the cache was made from), `key` (what is in it), the settings it was made with,
whether `classes_on_both_sides` was a rule of its split, a digest of each block of pictures and one of the index itself.
Format 1, of version 0.1.0, has no `format`: its one `key` stands for what it was made from, and nothing in it can be
checked. It is read as it is, and its split is kept where the pictures are decoded anew.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.errors import DataError

FORMAT = 2
SPLITS = ("train", "validation")
_BLOCK = 256
"""Pictures that share a digest."""
_MOST_CHECKED = 2**30
"""Bytes of an array that are checked when it is opened, about half a second's work; of a larger one, evenly spread."""


class DamagedPicturesError(DataError):
    """A cache of pictures is not as it was written."""

    def __init__(self, folder: Path, what: str) -> None:
        self.what = what
        super().__init__(f"{folder} is damaged ({what}); delete this folder, and it is made anew from the photos")


@dataclass(frozen=True, eq=False)
class StoredPictures:
    """A cache as it lies on the disk, checked."""

    index: dict[str, Any]
    images: dict[str, np.ndarray]
    """Memory map of each split: uint8 [N, H, W, C]."""

    @property
    def format(self) -> int:
        return self.index.get("format", 1)

    @property
    def source_key(self) -> str:
        """What the cache was made from."""
        return self.index["key" if self.format == 1 else "source_key"]

    @property
    def classes_on_both_sides(self) -> bool:
        """Whether `misplaced` pictures were moved where the source had no validation split."""
        return self.index.get("classes_on_both_sides", False)

    @property
    def key(self) -> str:
        """Changes with any picture, label, caption or id; in format 1, with anything that they follow from."""
        return self.index["key"]


def read_stored(folder: Path, *, checked: bool = True) -> StoredPictures | None:
    """The cache in a folder; None where there is none. Without `checked` the arrays' digests are trusted.

    Raises DamagedPicturesError where anything is not as it was written, DataError where a newer version wrote it.
    """
    try:
        content = (folder / "index.json").read_bytes()
    except FileNotFoundError:
        return None
    try:
        index = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedPicturesError(folder, "index.json is not JSON") from None
    if isinstance(index, dict) and isinstance(index.get("format"), int) and index["format"] > FORMAT:
        raise DataError(
            f"{folder} was written by a newer version of vae_ldm (format {index['format']}, this one reads {FORMAT}); "
            "install that version, or delete this folder to decode the photos anew"
        )
    if not _is_index(index):
        raise DamagedPicturesError(folder, "index.json is not as it was written")
    images = {split: _open_array(folder, split, index) for split in SPLITS}
    if checked and "format" in index:
        for split in SPLITS:
            _check_blocks(folder, split, images[split], index[split]["digests"])
    return StoredPictures(index, images)


def index_of(
    splits: Mapping[str, dict[str, list[Any]]],
    images: Mapping[str, np.ndarray],
    *,
    source_key: str,
    settings: dict[str, Any],
    class_names: list[str],
    unreadable: list[str],
    classes_on_both_sides: bool,
    previous: StoredPictures | None = None,
) -> dict[str, Any]:
    """What index.json holds of the splits' `ids`, `labels` and `captions`, and of their images.

    Where a `previous` cache, of any format, has the same contents, its key stays.
    """
    splits = {split: {**fields, "digests": list(_block_digests(images[split]))} for split, fields in splits.items()}
    key = _contents_key(splits, images, class_names)
    if previous is not None and _contents_of(previous) == key:
        key = previous.key
    index: dict[str, Any] = {
        "format": FORMAT,
        "key": key,
        "source_key": source_key,
        "settings": settings,
        "classes_on_both_sides": classes_on_both_sides,
        "class_names": class_names,
        "unreadable": unreadable,
        **splits,
    }
    return {**index, "digest": _digest_of(index)}


def _contents_of(stored: StoredPictures) -> str:
    """The key that format 2 gives to the contents of a cache."""
    splits = {}
    for split in SPLITS:
        fields = stored.index[split]
        digests = fields["digests"] if "digests" in fields else list(_block_digests(stored.images[split]))
        splits[split] = {**{name: fields[name] for name in ("ids", "labels", "captions")}, "digests": digests}
    return _contents_key(splits, stored.images, stored.index["class_names"])


def _contents_key(splits: dict[str, Any], images: Mapping[str, np.ndarray], class_names: list[str]) -> str:
    shapes = {split: images[split].shape for split in SPLITS}
    return _digest_of({"class_names": class_names, "shapes": shapes, **splits})


def _digest_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_index(index: Any) -> bool:
    """Whether this can be an index: of format 2 by its digest, of format 1 by its types."""
    if not isinstance(index, dict):
        return False
    if "format" in index:
        facts = {name: value for name, value in index.items() if name != "digest"}
        return index.get("digest") == _digest_of(facts)
    splits = [index.get(split) for split in SPLITS]
    return (
        "digest" not in index
        and isinstance(index.get("key"), str)
        and _are(index.get("class_names"), str)
        and _are(index.get("unreadable"), str)
        and all(isinstance(split, dict) and _is_split(split, len(index["class_names"])) for split in splits)
    )


def _is_split(split: dict[str, Any], num_classes: int) -> bool:
    ids, labels, captions = (split.get(field) or [] for field in ("ids", "labels", "captions"))
    if not (_are(ids, str) and _are(labels, int) and _are(captions, str)):
        return False
    return len(ids) == len(labels) == len(captions) and all(-1 <= label < num_classes for label in labels)


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _open_array(folder: Path, split: str, index: dict[str, Any]) -> np.ndarray:
    try:
        images = np.load(folder / f"{split}.npy", mmap_mode="r")
    except FileNotFoundError:
        raise DamagedPicturesError(folder, f"{split}.npy is missing") from None
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError):
        raise DamagedPicturesError(folder, f"{split}.npy is not as it was written") from None
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(index[split]["ids"]):
        raise DamagedPicturesError(folder, f"{split}.npy does not belong to index.json")
    return images


def _block_digests(images: np.ndarray) -> Iterator[str]:
    for start in range(0, len(images), _BLOCK):
        yield _block_digest(images, start)


def _block_digest(images: np.ndarray, start: int) -> str:
    return hashlib.sha256(images[start : start + _BLOCK].data).hexdigest()[:16]


def _check_blocks(folder: Path, split: str, images: np.ndarray, digests: list[str]) -> None:
    num_blocks = len(digests)
    num_checked = min(num_blocks, max(1, _MOST_CHECKED // max(1, images[:_BLOCK].nbytes)))
    for block in np.unique(np.linspace(0, num_blocks - 1, num_checked).astype(int)):
        start = int(block) * _BLOCK
        if _block_digest(images, start) != digests[block]:
            last = min(start + _BLOCK, len(images)) - 1
            raise DamagedPicturesError(folder, f"{split}.npy: pictures {start:,} to {last:,} are not those written")
