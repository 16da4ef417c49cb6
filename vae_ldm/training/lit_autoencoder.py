"""Training an autoencoder: LitAutoencoder wraps the network for the Lightning Trainer and can be thrown away after."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKL
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from vae_ldm.losses.adversarial import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss
from vae_ldm.losses.kl import kl_divergence
from vae_ldm.losses.reconstruction import ssim_error
from vae_ldm.models.pixels import to_unit_range
from vae_ldm.training.optimizers import OptimizerSettings, new_optimizer

ImageLoss = Callable[[Tensor, Tensor], Tensor]


class LitAutoencoder(LightningModule):
    """Two optimizers on one autoencoder pass: reconstruction, SSIM, perceptual, KL and, late, adversarial.

    Batches hold `images`, uint8 [B, C, H, W]. Losses come per image and are averaged here. Optimisation is manual:
    the discriminator's step sees detached reconstructions, so its gradients never reach the autoencoder, and nothing
    of it is computed before `adversarial_start_step`.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        *,
        reconstruction: ImageLoss,
        optimizer: OptimizerSettings,
        max_steps: int,
        ssim_weight: float = 0.0,
        kl_weight_per_latent: float = 0.0,
        kl_weight: float = 0.0,
        kl_warmup_steps: int = 0,
        variational: bool = True,
        perceptual: ImageLoss | None = None,
        perceptual_weight: float = 0.0,
        discriminator: nn.Module | None = None,
        discriminator_learning_rate: float = 1e-4,
        adversarial_weight: float = 0.0,
        adversarial_start_step: int = 0,
        use_adaptive_weight: bool = True,
        accumulate_grad_batches: int = 1,
        gradient_clip_norm: float | None = None,
        log_every_n_steps: int = 25,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.autoencoder = autoencoder
        self.discriminator = discriminator
        self.reconstruction = reconstruction
        self.perceptual = perceptual
        self.optimizer_settings = optimizer
        self.max_steps = max_steps
        self.ssim_weight = ssim_weight
        self.kl_weight_per_latent = kl_weight_per_latent
        self.kl_weight = kl_weight
        self.kl_warmup_steps = kl_warmup_steps
        self.variational = variational
        self.perceptual_weight = perceptual_weight
        self.discriminator_learning_rate = discriminator_learning_rate
        self.adversarial_weight = adversarial_weight
        self.adversarial_start_step = adversarial_start_step
        self.use_adaptive_weight = use_adaptive_weight
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_norm = gradient_clip_norm
        self.log_every_n_steps = log_every_n_steps

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.autoencoder.parameters() if parameter.requires_grad]
        optimizer, lr_scheduler = new_optimizer(trained, self.optimizer_settings, max_steps=self.max_steps)
        if self.discriminator is None:
            return [optimizer], [lr_scheduler]
        critic = torch.optim.Adam(
            self.discriminator.parameters(), lr=self.discriminator_learning_rate, betas=(0.5, 0.9)
        )
        return [optimizer, critic], [lr_scheduler]

    @property
    def discriminator_is_active(self) -> bool:
        """The adversarial part of the run has begun."""
        return self.discriminator is not None and self.global_step >= self.adversarial_start_step

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images = to_unit_range(batch["images"])
        optimizers: Any = self.optimizers()
        optimizer, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        active = self.discriminator_is_active
        steps_now = (batch_idx + 1) % self.accumulate_grad_batches == 0
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)

        reconstructions, loss, terms = self.generator_loss(images)
        with self._gradients_sent(steps_now):
            self.manual_backward(loss / self.accumulate_grad_batches)
        if active:
            assert self.discriminator is not None
            self.discriminator.requires_grad_(True)
            critic_loss = self.discriminator_loss(images, reconstructions)
            with self._gradients_sent(steps_now):
                self.manual_backward(critic_loss / self.accumulate_grad_batches)
            terms["discriminator"] = critic_loss.detach()

        if steps_now:
            self._step(optimizer, self.autoencoder)
            if active:
                assert self.discriminator is not None
                # Lightning counts every optimizer's step in global_step; only the autoencoder's is a step of the run.
                (critic,) = others
                critic._on_before_step = critic._on_after_step = _nothing
                self._step(critic, self.discriminator)
            lr_scheduler: Any = self.lr_schedulers()
            lr_scheduler.step()
        if (batch_idx + 1) % (self.log_every_n_steps * self.accumulate_grad_batches) == 0:
            self.log_dict({f"train/{name}": value for name, value in terms.items()}, sync_dist=True)
        return loss.detach()

    def generator_loss(self, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstructions [B, C, H, W], the autoencoder's scalar loss, and its terms, detached, by name."""
        posterior = self.autoencoder.encode(images).latent_dist
        latents = posterior.sample() if self.variational else posterior.mode()
        reconstructions = self.autoencoder.decode(latents).sample.float()

        terms = {"reconstruction": self.reconstruction(reconstructions, images).mean()}
        loss = terms["reconstruction"]
        if self.ssim_weight:
            terms["ssim_error"] = ssim_error(reconstructions, images).mean()
            loss = loss + self.ssim_weight * terms["ssim_error"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(reconstructions, images).mean()
            loss = loss + self.perceptual_weight * terms["perceptual"]
        reconstruction_loss = loss
        if self.variational:
            terms["kl"] = kl_divergence(posterior).mean()
            weight_per_nat = self.kl_weight + self.kl_weight_per_latent / latents[0].numel()
            loss = loss + weight_per_nat * self._kl_share() * terms["kl"]
        if self.discriminator_is_active:
            assert self.discriminator is not None
            terms["adversarial"] = hinge_generator_loss(self.discriminator(reconstructions)).mean()
            weight: Tensor | float = self.adversarial_weight
            if self.use_adaptive_weight:
                last_layer = self.autoencoder.decoder.conv_out.weight
                weight = self.adversarial_weight * adaptive_weight(
                    reconstruction_loss, terms["adversarial"], last_layer, average=self._mean_over_processes
                )
                terms["adaptive_weight"] = weight
            loss = loss + weight * terms["adversarial"]
        terms["loss"] = loss
        return reconstructions, loss, {name: term.detach() for name, term in terms.items()}

    def discriminator_loss(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        """The discriminator's scalar hinge loss; no gradient reaches the autoencoder."""
        assert self.discriminator is not None
        fake = self.discriminator(reconstructions.detach())
        return hinge_discriminator_loss(self.discriminator(images), fake).mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = to_unit_range(batch["images"])
        posterior = self.autoencoder.encode(images).latent_dist
        reconstructions = self.autoencoder.decode(posterior.mode()).sample.float().clamp(-1, 1)
        psnr = peak_signal_noise_ratio(
            reconstructions, images, data_range=2.0, reduction="none", dim=tuple(range(1, images.ndim))
        )
        terms = {
            "psnr": psnr,
            "ssim": 1 - ssim_error(reconstructions, images),
            "reconstruction": self.reconstruction(reconstructions, images),
        }
        self.log_dict(
            {f"val/{name}": term.mean() for name, term in terms.items()}, batch_size=len(images), sync_dist=True
        )

    def _mean_over_processes(self, tensor: Tensor) -> Tensor:
        alone = self._trainer is None or self.trainer.world_size == 1
        return tensor if alone else self.trainer.strategy.reduce(tensor, reduce_op="mean")

    def _gradients_sent(self, now: bool) -> AbstractContextManager[None]:
        """Processes tell each other of a backward pass's gradients only where a step follows."""
        strategy = self.trainer.strategy
        return nullcontext() if now or not isinstance(strategy, ParallelStrategy) else strategy.block_backward_sync()

    def _kl_share(self) -> float:
        return min(1.0, (self.global_step + 1) / self.kl_warmup_steps) if self.kl_warmup_steps else 1.0

    def _step(self, optimizer: Any, network: nn.Module) -> None:
        if self.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _nothing() -> None:
    """In place of Lightning's step counter."""
