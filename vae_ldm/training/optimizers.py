"""AdamW with warm-up, and whichever implementation is fastest on the device."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
from torch import nn


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rate, decay and schedule; `lr_scheduler` is a name of diffusers.optimization.get_scheduler.

    Defaults are those of a recipe: `assembly.build_optimizer(parts.Optimizer())`.
    """

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    lr_scheduler: str
    warmup_steps: int


def new_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings, *, max_steps: int, fused: bool = True
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW (Loshchilov & Hutter 2017) over `parameters` and its learning-rate schedule, stepped each step."""
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=fused,
    )
    name = "constant_with_warmup" if settings.lr_scheduler == "constant" else settings.lr_scheduler
    lr_scheduler = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=min(settings.warmup_steps, max_steps // 2),
        num_training_steps=max_steps,
    )
    return optimizer, lr_scheduler
