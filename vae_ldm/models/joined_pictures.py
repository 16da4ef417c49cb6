"""Several arrays of pictures at rest, of one size or of several, as one sequence; only what is used is copied."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


class JoinedPictures:
    """N pictures of several arrays uint8 [n, H, W, C], each of its array's own size.

    Rows of one size come as an array, as of NumPy; rows of several sizes as JoinedPictures. Where one array has
    colours, a grey picture has three equal channels. `shape` exists where all are of one size; `of_one_size` divides
    them by size.
    """

    def __init__(
        self, arrays: Sequence[np.ndarray], array_of: np.ndarray | None = None, row_of: np.ndarray | None = None
    ) -> None:
        """Without `array_of` and `row_of`, int64 [N] each, all pictures of the arrays in their order."""
        self.arrays = list(arrays)
        counts = [len(array) for array in self.arrays]
        self.array_of = np.repeat(np.arange(len(counts)), counts) if array_of is None else array_of
        self.row_of = np.concatenate([np.arange(count) for count in counts]) if row_of is None else row_of
        self.channels = max(array.shape[-1] for array in self.arrays)

    def __len__(self) -> int:
        return len(self.array_of)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return self[key[0]][(slice(None), *key[1:])]
        if isinstance(key, int | np.integer):
            return self[[key]][0]
        array_of, row_of = self.array_of[key], self.row_of[key]
        sizes = {self.arrays[number].shape[1:3] for number in np.unique(array_of)}
        if len(sizes) > 1:
            return JoinedPictures(self.arrays, array_of, row_of)
        size = sizes.pop() if sizes else self.arrays[0].shape[1:3]
        pictures = np.empty((len(array_of), *size, self.channels), np.uint8)
        for number in np.unique(array_of):
            rows = np.flatnonzero(array_of == number)
            pictures[rows] = self.arrays[number][row_of[rows]]
        return pictures

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        assert self.has_one_size, "pictures of several sizes are no array"
        return np.asarray(self[:], dtype)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of the pictures, each size once, in the order of the arrays."""
        used = (self.arrays[number].shape for number in np.unique(self.array_of))
        return list(dict.fromkeys((height, width) for _, height, width, _ in used))

    @property
    def has_one_size(self) -> bool:
        """Whether all pictures are equally large."""
        return len(self.sizes) <= 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, H, W, C]."""
        assert self.has_one_size, "pictures of several sizes have no shape"
        height, width = self.sizes[0] if self.sizes else self.arrays[0].shape[1:3]
        return len(self), height, width, self.channels


PictureArray = np.ndarray | JoinedPictures
"""Pictures at rest, uint8 [N, H, W, C], or of several sizes."""


def one_after_the_other(several: Sequence[PictureArray]) -> JoinedPictures:
    """All pictures of several arrays, joined or not, in their order; none of them is copied."""
    joined = [pictures if isinstance(pictures, JoinedPictures) else JoinedPictures([pictures]) for pictures in several]
    firsts = np.cumsum([0, *(len(pictures.arrays) for pictures in joined)])
    return JoinedPictures(
        [array for pictures in joined for array in pictures.arrays],
        np.concatenate([pictures.array_of + first for pictures, first in zip(joined, firsts, strict=False)]),
        np.concatenate([pictures.row_of for pictures in joined]),
    )


def of_one_size(pictures: PictureArray) -> list[tuple[np.ndarray, PictureArray]]:
    """Row numbers, int64 [n], and pictures [n, H, W, C] for each size; one pair where all are of one size."""
    if isinstance(pictures, np.ndarray) or pictures.has_one_size:
        return [(np.arange(len(pictures)), pictures)]
    size_of = [array.shape[1:3] for array in pictures.arrays]
    groups = [
        np.flatnonzero(np.isin(pictures.array_of, [number for number, other in enumerate(size_of) if other == size]))
        for size in pictures.sizes
    ]
    return [(rows, JoinedPictures(pictures.arrays, pictures.array_of[rows], pictures.row_of[rows])) for rows in groups]


def num_channels(pictures: PictureArray) -> int:
    """1 grey, 3 RGB, 4 RGBA."""
    return pictures.channels if isinstance(pictures, JoinedPictures) else int(pictures.shape[-1])


def image_sizes(pictures: PictureArray) -> list[tuple[int, int]]:
    """Height and width of the pictures, each size once."""
    return pictures.sizes if isinstance(pictures, JoinedPictures) else [(pictures.shape[1], pictures.shape[2])]


def each_size(function: Callable[[Any], np.ndarray], pictures: PictureArray) -> PictureArray:
    """What `function` makes of the pictures of each size, uint8 [n, h, w, C], in the order of all pictures."""
    groups = of_one_size(pictures)
    made = [function(some) for _, some in groups]
    if len(made) == 1:
        return made[0]
    array_of, row_of = np.empty((2, len(pictures)), np.int64)
    for number, (rows, _) in enumerate(groups):
        array_of[rows], row_of[rows] = number, np.arange(len(rows))
    return JoinedPictures(made, array_of, row_of)
