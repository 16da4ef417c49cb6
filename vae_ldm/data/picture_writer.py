"""Writing the cache of pictures: two arrays that grow by appending, and an index of what is in them."""

import contextlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.data.sources import SPLITS, Split, sort_class_names
from vae_ldm.data.stored_pictures import StoredPictures, index_of
from vae_ldm.files import write_whole

_CHUNK = 256


class PicturesWriter:
    """Takes decoded pictures one by one; neither their number nor, with `channels` None, their colour is known before.

    Grey pictures are written with 1 channel until the first that is not grey turns all of them to RGB.
    """

    def __init__(self, folder: Path, image_size: tuple[int, int], channels: int | None) -> None:
        self._folder = folder
        self._splits = {split: _SplitWriter(folder / f"{split}.npy", (*image_size, channels or 1)) for split in SPLITS}
        self._places = itertools.count()

    def append(self, split: Split, pixels: np.ndarray, *, name: str, label: str | None, caption: str) -> None:
        writer = self._splits[split]
        if pixels.shape[-1] > writer.shape[-1]:
            for each in self._splits.values():
                each.widen()
        elif pixels.shape[-1] < writer.shape[-1]:
            pixels = np.repeat(pixels, writer.shape[-1], axis=-1)
        writer.append(pixels, (name, label, caption, next(self._places)))

    def labels(self, split: Split) -> list[tuple[str, str | None]]:
        """Name and label of each picture of a split, row by row."""
        return [(name, label) for name, label, _, _ in self._splits[split].rows]

    def move(self, rows: Mapping[Split, set[int]]) -> None:
        """Move these rows of each split to the other one; both keep the order in which pictures were appended."""
        written = {split: (self._splits[split].rows, self._splits[split].take_all()) for split in SPLITS}
        for split in SPLITS:
            found = [
                (row[3], source, number)
                for source, (known, _) in written.items()
                for number, row in enumerate(known)
                if (number in rows.get(source, ())) == (source != split)
            ]
            for _, source, number in sorted(found):
                known, images = written[source]
                self._splits[split].append(images[number], known[number])

    def __len__(self) -> int:
        return sum(len(writer.rows) for writer in self._splits.values())

    def finish(
        self,
        source_key: str,
        settings: dict[str, Any],
        class_names: list[str] | None,
        unreadable: list[str],
        *,
        classes_on_both_sides: bool = True,
        previous: StoredPictures | None = None,
    ) -> None:
        """Complete the arrays and write index.json, which `read_stored` reads.

        A split that got nothing is given the last picture of the other. The key of a `previous` cache stays where its
        contents are the same.
        """
        train, validation = self._splits["train"], self._splits["validation"]
        if not validation.rows:
            validation.append(*train.pop())
        elif not train.rows:
            train.append(*validation.pop())
        if class_names is None:
            class_names = sort_class_names(row[1] for writer in self._splits.values() for row in writer.rows)
        number = {name: index for index, name in enumerate(class_names)}
        fields: dict[str, dict[str, list[Any]]] = {}
        images: dict[str, np.ndarray] = {}
        for split, writer in self._splits.items():
            writer.finish()
            images[split] = np.load(self._folder / f"{split}.npy", mmap_mode="r")
            fields[split] = {
                "ids": [row[0] for row in writer.rows],
                "labels": [-1 if row[1] is None else number[row[1]] for row in writer.rows],
                "captions": [row[2] for row in writer.rows],
            }
        index = index_of(
            fields,
            images,
            source_key=source_key,
            settings=settings,
            class_names=class_names,
            unreadable=unreadable,
            classes_on_both_sides=classes_on_both_sides,
            previous=previous,
        )
        write_whole(self._folder / "index.json", json.dumps(index), synced=True)

    def close(self) -> None:
        """Let go of the files, complete or not."""
        for writer in self._splits.values():
            writer.close()


_Row = tuple[str, str | None, str, int]
"""Id, label, caption, and when it was appended to either split."""


class _SplitWriter:
    """A growing .npy file, uint8 [N, H, W, C], and a row for each picture in it.

    It is an ordinary file, not a memory map: filling a memory map on a full disk kills the process.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int]) -> None:
        self._file, self.shape = file, shape
        self.rows: list[_Row] = []
        self._open()

    def append(self, pixels: np.ndarray, row: _Row) -> None:
        assert pixels.shape == self.shape
        assert pixels.dtype == np.uint8
        self._stream.write(pixels.tobytes())
        self.rows.append(row)

    def pop(self) -> tuple[np.ndarray, _Row]:
        """Take back the last picture: what `append` was given."""
        start = self._stream.seek(-int(np.prod(self.shape)), os.SEEK_END)
        pixels = np.frombuffer(self._stream.read(), np.uint8).reshape(self.shape)
        self._stream.seek(start)
        self._stream.truncate()
        return pixels, self.rows.pop()

    def widen(self) -> None:
        """Turn what has been written so far from grey to RGB."""
        assert self.shape[-1] == 1
        rows, grey = self.rows, self.take_all()
        self.rows, self.shape = rows, (*self.shape[:2], 3)
        for start in range(0, len(grey), _CHUNK):
            self._stream.write(np.repeat(grey[start : start + _CHUNK], 3, axis=-1).tobytes())

    def take_all(self) -> np.ndarray:
        """All pictures so far, uint8 [N, H, W, C]; the file begins anew."""
        self.finish()
        images = np.load(self._file, mmap_mode="r") if self.rows else np.empty((0, *self.shape), np.uint8)
        self._file.unlink()  # its bytes stay until the map is gone
        self.rows = []
        self._open()
        return images

    def finish(self) -> None:
        """Make it a complete .npy file, on the disk itself."""
        self._write_header()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk closing fails once more
            self._stream.close()

    def _open(self) -> None:
        self._stream = self._file.open("w+b")
        self._write_header()

    def _write_header(self) -> None:
        """The header for the present count; NumPy pads it so that the count may grow in place."""
        self._stream.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.rows), *self.shape)}
        np.lib.format.write_array_header_1_0(self._stream, header)
        self._stream.seek(0, os.SEEK_END)
