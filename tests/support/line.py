"""The smallest training: a module of two weights, its batches, and what happens at each."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

X = [{"x": torch.tensor(1.0)}, {"x": torch.tensor(0.5)}]


class Line(LightningModule):
    """y = w x, which learns y = 2 x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return ((self.weight - 2) * batch["x"]).square().sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/weight", self.weight[0].detach())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Notes(Callback):
    """What the weights and the random numbers are after each batch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.randoms: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.randoms[batch_idx] = torch.rand(()).item()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.weights.append(pl_module.weight.detach().clone())
