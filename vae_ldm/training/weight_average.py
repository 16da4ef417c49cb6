"""Averages of the weights that move at each step, and are what is validated and exported."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class FusedAverage(WeightAveraging, ABC):
    """An average of the weights that moves at each step by `decay_after(updates)`; it is what is validated.

    Lightning's EMAWeightAveraging has a constant decay, which leaves short runs full of their initial weights, and
    averages tensor by tensor; this is its base class with a fused average.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self._listed: list[list[Any]] = []
        self._is_trained: list[bool] = []

    @abstractmethod
    def decay_after(self, updates: int) -> float:
        """The share of the old average in the next one, after `updates` steps."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """As the base class, but parameters and buffers are listed once: walking over all modules takes its time.

        Frozen parameters are passed over: the average of what never changes is what it is.
        """
        if self._latest_update_step == 0 or self._average_model is None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)  # the first copies them
            return
        if trainer.global_step <= self._latest_update_step:
            return
        if not self._listed:
            modules = (self._average_model.module, pl_module)
            self._listed = [
                *(list(compress(module.parameters(), self._is_trained)) for module in modules),
                *(list(module.buffers()) for module in modules),
            ]
        averaged, current, old_buffers, buffers = self._listed
        with torch.no_grad():
            self._average(averaged, current, self._latest_update_step)
            for old, new in zip(old_buffers, buffers, strict=True):
                old.copy_(new)
            self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listed = []
        # Noted now, because a step may switch gradients of a discriminator off and on.
        self._is_trained = [parameter.requires_grad for parameter in pl_module.parameters()]

    def _average(self, averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        # Our own count of updates: reading the tensor would wait for the GPU each step.
        torch._foreach_lerp_(averaged, current, 1 - self.decay_after(self._latest_update_step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the average moves with steps only."""

    @contextmanager
    def averaged(self, pl_module: LightningModule) -> Iterator[None]:
        """The average in the module's place while the block runs."""
        self._swap_models(pl_module)
        try:
            yield
        finally:
            self._swap_models(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        take_buffers_of_first_process(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module, also after a resume from the last step, which trains and so ends nothing."""
        self._copy_average_to_current(pl_module)
        take_buffers_of_first_process(trainer, pl_module)


class WarmedEma(FusedAverage):
    """Exponential moving average with decay min(decay, (1 + n) / (10 + n)) after n updates."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def decay_after(self, updates: int) -> float:
        return min(self.decay, (1 + updates) / (10 + updates))


def take_buffers_of_first_process(trainer: Trainer, pl_module: LightningModule) -> None:
    """The average's buffers are those of one step, at which each process had its own."""
    if trainer.world_size > 1:
        for buffer in pl_module.buffers():
            buffer.copy_(trainer.strategy.broadcast(buffer))
