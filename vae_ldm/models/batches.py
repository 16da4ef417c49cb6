"""How many pictures go through a network at once, so that memory is bounded whatever their size."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from vae_ldm.errors import RunError
from vae_ldm.models.joined_pictures import PictureArray

Result = TypeVar("Result")
Items = PictureArray | Tensor | Sequence[Any]


def batch_size_for(image_size: tuple[int, int], *, most: int, up_to: int = 256) -> int:
    """Pictures of (height, width) at once: `most` up to a side of `up_to` px, then in proportion fewer, at least 1."""
    height, width = image_size
    return max(1, min(most, most * up_to**2 // (height * width)))


def in_batches(function: Callable[[Any], Result], items: Items, batch_size: int) -> Iterator[Result]:
    """What `function` returns for each `batch_size` items in order, the last batch shorter.

    Where memory runs out the batch is halved and tried again, and the smaller size is kept. Raises RunError where not
    even one item fits.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + batch_size]
        try:
            result = function(batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise RunError("not one picture fits into memory; use smaller ones, or a larger GPU") from error
            batch_size = len(batch) // 2
        else:
            yield result
            start += len(batch)
            continue
        # Outside the handler, whose traceback holds on to the tensors that did not fit.
        logging.getLogger(__name__).info("out of memory; going on with %d pictures at once", batch_size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator has no class of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
