"""Vectors in .npy files, memory-mapped, and several of them read as one array."""

from pathlib import Path

import numpy as np


def mapped_vectors(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """The vectors float32 of a .npy file, of this shape, memory-mapped.

    Raises ValueError for any other content, before anything of it is mapped or taken for an archive or a pickle, as
    `np.load` would; OSError where the file cannot be read.
    """
    with file.open("rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{file.name} is of a version that is never written")
        stored, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if (stored, dtype) != (shape, np.dtype(np.float32)):
        raise ValueError(f"{file.name} holds {dtype} {stored} instead of float32 {shape}")
    return np.lib.format.open_memmap(file, mode="r")


class VectorRows:
    """Arrays float32 [n, dim], memory-mapped or not, read as one: called with rising rows, int64 [n], it gives them."""

    def __init__(self, dim: int) -> None:
        self._arrays: list[np.ndarray] = []
        self._ends = np.zeros(0, np.int64)
        self._dim = dim

    def append(self, array: np.ndarray) -> None:
        if array.ndim != 2 or array.shape[1] != self._dim or array.dtype != np.float32:
            raise ValueError(f"{array.dtype} {array.shape} are no vectors of {self._dim}")
        self._arrays.append(array)
        self._ends = np.append(self._ends, (self._ends[-1] if len(self._ends) else 0) + len(array))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self._dim), np.float32)
        cuts = np.searchsorted(rows, self._ends)
        first = 0
        for array, start, cut in zip(self._arrays, self._ends - [len(one) for one in self._arrays], cuts, strict=True):
            if first < cut:
                found[first:cut] = array[rows[first:cut] - start]
            first = cut
        return found
