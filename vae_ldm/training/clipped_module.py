"""What modules of automatic optimisation share: the recipe's optimizer, and clipping that works for it."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import nn

from vae_ldm.training.optimizers import OptimizerSettings, new_optimizer


class ClippedModule(LightningModule):
    """A LightningModule with the recipe's optimizer, whose gradients are clipped by their norm."""

    def __init__(self, optimizer: OptimizerSettings, *, max_steps: int) -> None:
        super().__init__()
        self.optimizer_settings = optimizer
        self.max_steps = max_steps
        self._to_clip: list[nn.Parameter] = []

    def configure_optimizers(self) -> Any:
        # A fused step unscales float16 gradients by itself, after they would have been clipped.
        fused = self.trainer.precision != "16-mixed"
        optimizer, lr_scheduler = new_optimizer(self, self.optimizer_settings, max_steps=self.max_steps, fused=fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip by norm; Lightning refuses to for a fused optimizer under autocast, even where nothing is scaled."""
        if gradient_clip_val is not None:
            # Listed once: walking over all modules at each step takes a percent of it. And at the first step, because
            # sharding puts others in their place before.
            self._to_clip = self._to_clip or list(self.parameters())
            nn.utils.clip_grad_norm_(self._to_clip, gradient_clip_val)
