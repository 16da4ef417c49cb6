"""Averages of gradients over processes, for optimisation that DistributedDataParallel does not see through."""

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_BUCKET_BYTES = 25 * 2**20  # as large as DistributedDataParallel's


class GradientAverage:
    """Replaces each gradient that has changed since the last call by its mean over the processes.

    Two optimizers on one model (an autoencoder and its discriminator) go through several backward passes a step, of
    which each leaves some gradients alone; those are not sent again. A mean is its own mean, so a gradient that is
    added to after it was averaged comes out right as well. Every process must call it after the same backward passes.
    """

    def __init__(self, mean: Callable[[Tensor], Tensor]) -> None:
        self.mean = mean
        self._done: dict[nn.Parameter, tuple[weakref.ref[Tensor], int]] = {}

    def __call__(self, parameters: Iterable[nn.Parameter]) -> None:
        changed = [parameter for parameter in parameters if parameter.grad is not None and self._is_new(parameter)]
        for bucket in _buckets([parameter.grad for parameter in changed if parameter.grad is not None]):
            averaged = self.mean(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, values in zip(bucket, averaged.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(values.view_as(gradient))
        for parameter in changed:
            assert parameter.grad is not None
            self._done[parameter] = (weakref.ref(parameter.grad), parameter.grad._version)

    def _is_new(self, parameter: nn.Parameter) -> bool:
        gradient, version = self._done.get(parameter, (None, -1))
        return gradient is None or gradient() is not parameter.grad or version != parameter.grad._version  # type: ignore[union-attr]


def _buckets(gradients: Iterable[Tensor]) -> list[list[Tensor]]:
    """Groups of one type each, in order, of about 25 MB."""
    buckets: list[list[Tensor]] = []
    size = 0
    for gradient in gradients:
        if not buckets or size >= _BUCKET_BYTES or buckets[-1][0].dtype != gradient.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(gradient)
        size += gradient.numel() * gradient.element_size()
    return buckets
