"""How long a training step takes on this machine: tried for a few steps on the device that training would use."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from vae_ldm.training.engine_plugins import AUTOCAST_DTYPES
from vae_ldm.training.optimizers import OptimizerSettings, new_optimizer

_NUM_TIMED_STEPS = 3


class Update:
    """What follows a backward pass: clipping, the optimizer and, `num_averages` moving averages of the weights."""

    def __init__(
        self,
        network: nn.Module,
        *,
        clip_norm: float | None,
        optimizer: OptimizerSettings | None = None,
        num_averages: int = 0,
    ) -> None:
        """`optimizer` None: AdamW."""
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        # A rate of 0: the weights stay, and the time is the same.
        settings = _standing_still(optimizer)
        self.optimizer, _ = new_optimizer(network, settings, max_steps=_NUM_TIMED_STEPS)
        self.clip_norm = clip_norm
        self.weights = [parameter.detach() for parameter in network.parameters()] if num_averages else []
        self.averages = [[weight.clone() for weight in self.weights] for _ in range(num_averages)]

    def __call__(self) -> None:
        """One step of it."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for average in self.averages:
            torch._foreach_lerp_(average, self.weights, 0.5)


def _standing_still(optimizer: OptimizerSettings | None) -> OptimizerSettings:
    muon = optimizer and optimizer.muon and replace(optimizer.muon, learning_rate=0.0)
    return OptimizerSettings(
        0.0, weight_decay=0.0, betas=(0.9, 0.99), lr_scheduler="constant", warmup_steps=0, muon=muon or None
    )


def seconds_a_step(
    losses: Sequence[tuple[Callable[[], Tensor], Update]], *, device: torch.device, precision: str, batches: int = 1
) -> float:
    """The fastest of a few steps: each loss in turn, forward and backward over `batches` batches, then its update.

    The first, in which a device chooses its kernels, is not among them.
    """
    seconds = []
    for number in range(1 + _NUM_TIMED_STEPS):
        _wait_for(device)
        start = time.perf_counter()
        for loss, update in losses:
            for _ in range(batches):
                with _autocast(device, precision):
                    value = loss()
                value.backward()
            update()
        _wait_for(device)
        if number:
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def seconds_a_call(call: Callable[[], None], *, device: torch.device) -> float:
    """The fastest of a few calls, less the first one."""
    seconds = []
    for _ in range(1 + _NUM_TIMED_STEPS):
        _wait_for(device)
        start = time.perf_counter()
        call()
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    dtype = AUTOCAST_DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _wait_for(device: torch.device) -> None:
    """A GPU is given its work and does it later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
