"""Many pictures decoded by threads, in order, a little ahead of who takes them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from vae_ldm.choices import Resize
from vae_ldm.data.decoding import Picture, Remark, UnreadablePictureError, decode_picture
from vae_ldm.data.sources import Record, Split


@dataclass(frozen=True)
class Transform:
    """Turns a picture into pixels, or into the reason why there are none."""

    image_size: tuple[int, int]
    channels: int | None
    resize: Resize
    max_pixels: int

    def __call__(self, picture: Picture, on_remark: Callable[[Remark, int], None] | None = None) -> np.ndarray | str:
        try:
            return decode_picture(picture, **asdict(self), on_remark=on_remark)
        except UnreadablePictureError as error:
            return str(error)


def decode_all(
    records: Iterable[tuple[Split, Record]], transform: Transform, on_remark: Callable[[Remark, int], None]
) -> Iterator[tuple[Split, Record, np.ndarray | str]]:
    """Every record with its pixels, in order; Pillow lets go of the interpreter, so threads decode at the same time."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = min(8, num_cores)  # each may hold a picture of max_pixels
    ahead: deque[tuple[Split, Record, Future[np.ndarray | str]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for split, record in records:
            ahead.append((split, record, pool.submit(transform, record.picture, on_remark)))
            if len(ahead) > 2 * num_threads:
                split, record, pixels = ahead.popleft()
                yield split, record, pixels.result()
        for split, record, pixels in ahead:
            yield split, record, pixels.result()
