"""Tensors that come from a file: whether they are what a fit has left, before anything is computed with them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vae_ldm.errors import DataError

Shape = tuple[str | int, ...]
"""Lengths of a tensor; a name stands for one length, at least 1, in all shapes that are checked together."""


def check_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], *, dtype: torch.dtype = torch.float32
) -> None:
    """Raise KeyError where one of the tensors is missing, ValueError where one is of another shape or type."""
    lengths: dict[str, int] = {}
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape)
        if len(found) == len(shape):
            for wanted, length in zip(shape, found, strict=True):
                if isinstance(wanted, str) and length:
                    lengths.setdefault(wanted, length)
        expected = tuple(lengths.get(wanted, wanted) if isinstance(wanted, str) else wanted for wanted in shape)
        if (tensors[name].dtype, found) != (dtype, expected):
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"{name} is {_words(tensors[name].dtype)} {list(found)}, not {_words(dtype)} [{sizes}]")


def check_lengths(stored: Tensor, seen: Tensor) -> None:
    """Raise DataError where vectors [..., D] that a model gives are not as long as the stored one [D] of its file."""
    if seen.shape[-1] != len(stored):
        raise DataError(
            f"this model gives vectors of {seen.shape[-1]:,} numbers, the stored ones have {len(stored):,}: they do "
            "not belong together; make the file anew with this model"
        )


def _words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
