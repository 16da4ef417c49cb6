"""Writing the cache of pictures: two arrays that grow by appending, and an index of what is in them."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.data.sources import SPLITS, Split, sort_class_names

_CHUNK = 256


class PicturesWriter:
    """Takes decoded pictures one by one; neither their number nor, with `channels` None, their colour is known before.

    Grey pictures are written with 1 channel until the first that is not grey turns all of them to RGB.
    """

    def __init__(self, folder: Path, image_size: tuple[int, int], channels: int | None) -> None:
        self._folder = folder
        self._splits = {split: _SplitWriter(folder / f"{split}.npy", (*image_size, channels or 1)) for split in SPLITS}

    def append(self, split: Split, pixels: np.ndarray, *, name: str, label: str | None, caption: str) -> None:
        writer = self._splits[split]
        if pixels.shape[-1] > writer.shape[-1]:
            for each in self._splits.values():
                each.widen()
        elif pixels.shape[-1] < writer.shape[-1]:
            pixels = np.repeat(pixels, writer.shape[-1], axis=-1)
        writer.append(pixels, (name, label, caption))

    def __len__(self) -> int:
        return sum(len(writer.rows) for writer in self._splits.values())

    def finish(self, key: str, class_names: list[str] | None, unreadable: list[str]) -> None:
        """Complete the arrays and write index.json, which `open_pictures` reads.

        A split that got nothing is given the last picture of the other.
        """
        train, validation = self._splits["train"], self._splits["validation"]
        if not validation.rows:
            validation.append(*train.pop())
        elif not train.rows:
            train.append(*validation.pop())
        if class_names is None:
            class_names = sort_class_names(label for writer in self._splits.values() for _, label, _ in writer.rows)
        number = {name: index for index, name in enumerate(class_names)}
        index: dict[str, Any] = {"key": key, "class_names": class_names, "unreadable": unreadable}
        for split, writer in self._splits.items():
            writer.finish()
            index[split] = {
                "ids": [row[0] for row in writer.rows],
                "labels": [-1 if row[1] is None else number[row[1]] for row in writer.rows],
                "captions": [row[2] for row in writer.rows],
            }
        (self._folder / "index.json").write_text(json.dumps(index), encoding="utf-8")

    def close(self) -> None:
        """Let go of the files, complete or not."""
        for writer in self._splits.values():
            writer.close()


_Row = tuple[str, str | None, str]


class _SplitWriter:
    """A growing .npy file, uint8 [N, H, W, C], and a row of id, label and caption for each picture in it.

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
        self.finish()
        grey = np.load(self._file, mmap_mode="r") if self.rows else np.empty((0, *self.shape), np.uint8)
        self._file.unlink()  # its bytes stay until the map is gone
        self.shape = (*self.shape[:2], 3)
        self._open()
        for start in range(0, len(grey), _CHUNK):
            self._stream.write(np.repeat(grey[start : start + _CHUNK], 3, axis=-1).tobytes())

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
