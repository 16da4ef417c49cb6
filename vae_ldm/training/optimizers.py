"""The optimizer of a stage with its schedule, and whichever implementation is fastest on the device."""

from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from vae_ldm.training.muon import MuonWithAdamW, split_parameters


@dataclass(frozen=True)
class MuonSettings:
    """How Muon moves matrices."""

    learning_rate: float
    momentum: float
    newton_schulz_steps: int


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rate, decay and schedule; `lr_scheduler` is a name of diffusers.optimization.get_scheduler.

    Defaults are those of a recipe: `assembly.build_optimizer(parts.AdamW())`.
    """

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    lr_scheduler: str
    warmup_steps: int
    muon: MuonSettings | None = None
    """None: AdamW takes matrices as well."""


def new_optimizer(
    module: nn.Module, settings: OptimizerSettings, *, max_steps: int, fused: bool = True
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """The optimizer of what is trained in `module`, and its learning-rate schedule, stepped each step."""
    name = "constant_with_warmup" if settings.lr_scheduler == "constant" else settings.lr_scheduler
    optimizer = _new_optimizer(module, settings, fused=fused)
    lr_scheduler = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=min(settings.warmup_steps, max_steps // 2),
        num_training_steps=max_steps,
    )
    return optimizer, lr_scheduler


def _new_optimizer(module: nn.Module, settings: OptimizerSettings, *, fused: bool) -> torch.optim.AdamW:
    if settings.muon is None:
        return torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=fused,
        )
    matrices, others = split_parameters(module)
    return MuonWithAdamW(
        matrices,
        others,
        lr=settings.muon.learning_rate,
        momentum=settings.muon.momentum,
        newton_schulz_steps=settings.muon.newton_schulz_steps,
        adamw_lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=fused,
    )
