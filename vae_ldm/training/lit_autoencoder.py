"""Training an autoencoder: LitAutoencoder wraps the network for the Lightning Trainer and can be thrown away after."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class ImageTerm(NamedTuple):
    """A loss that compares reconstructions with their images, and how much it weighs."""

    weight: float
    loss: ImageLoss


@dataclass(frozen=True, eq=False)
class AdversarialGame:
    """The discriminator, its learning rate, and how and from which step on the autoencoder plays against it."""

    discriminator: nn.Module
    learning_rate: float
    weight: float
    start_step: int
    use_adaptive_weight: bool


class LitAutoencoder(LightningModule):
    """Two optimizers on one autoencoder pass: image terms, KL and, late, adversarial.

    Batches hold `images`, uint8 [B, C, H, W]. Losses come per image and are averaged here. Optimisation is manual:
    the discriminator's step sees detached reconstructions, so its gradients never reach the autoencoder, and nothing
    of it is computed before its start step.
    """

    not_exported = ("discriminator",)
    """Children that no export holds, so that nobody needs averages of them."""

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        *,
        image_terms: Mapping[str, ImageTerm],
        optimizer: OptimizerSettings,
        max_steps: int,
        kl_weight_per_latent: float,
        kl_weight: float,
        kl_warmup_steps: int,
        variational: bool,
        adversarial: AdversarialGame | None,
        accumulate_grad_batches: int,
        gradient_clip_norm: float | None,
        log_every_n_steps: int,
    ) -> None:
        """`image_terms` are summed in their order and logged by their names; `reconstruction` is among them."""
        super().__init__()
        self.automatic_optimization = False
        self.autoencoder = autoencoder
        self.adversarial = adversarial
        self.discriminator = None if adversarial is None else adversarial.discriminator
        self.image_terms = dict(image_terms)
        # Networks among them follow the module from device to device.
        losses = (term.loss for term in image_terms.values())
        self.image_networks = nn.ModuleList(loss for loss in losses if isinstance(loss, nn.Module))
        self.optimizer_settings = optimizer
        self.max_steps = max_steps
        self.kl_weight_per_latent = kl_weight_per_latent
        self.kl_weight = kl_weight
        self.kl_warmup_steps = kl_warmup_steps
        self.variational = variational
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_norm = gradient_clip_norm
        self.log_every_n_steps = log_every_n_steps
        self._to_clip: dict[nn.Module, list[nn.Parameter]] = {}

    def configure_optimizers(self) -> Any:
        optimizer, lr_scheduler = new_optimizer(self.autoencoder, self.optimizer_settings, max_steps=self.max_steps)
        if self.adversarial is None:
            return [optimizer], [lr_scheduler]
        critic = torch.optim.Adam(
            self.adversarial.discriminator.parameters(), lr=self.adversarial.learning_rate, betas=(0.5, 0.9)
        )
        return [optimizer, critic], [lr_scheduler]

    @property
    def discriminator_is_active(self) -> bool:
        """The adversarial part of the run has begun."""
        return self.adversarial is not None and self.global_step >= self.adversarial.start_step

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
                (critic,) = others
                self._step(critic, self.discriminator)
            lr_scheduler: Any = self.lr_schedulers()
            lr_scheduler.step()
        if (batch_idx + 1) % (self.log_every_n_steps * self.accumulate_grad_batches) == 0:
            self.log_dict({f"train/{name}": value for name, value in terms.items()}, sync_dist=True)
        return loss.detach()

    def generator_loss(
        self, images: Tensor, *, adversarial: bool | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstructions [B, C, H, W], the autoencoder's scalar loss, and its terms, detached, by name.

        `adversarial` None: with the discriminator once its part of the run has begun.
        """
        posterior = self.autoencoder.encode(images).latent_dist
        latents = posterior.sample() if self.variational else posterior.mode()
        reconstructions = self.autoencoder.decode(latents).sample.float()

        terms = {name: term.loss(reconstructions, images).mean() for name, term in self.image_terms.items()}
        # As one sum from left to right, so that it stays the same to the bit.
        first, *others = (self.image_terms[name].weight * value for name, value in terms.items())
        loss = sum(others, start=first)
        reconstruction_loss = loss
        if self.variational:
            terms["kl"] = kl_divergence(posterior).mean()
            weight_per_nat = self.kl_weight + self.kl_weight_per_latent / latents[0].numel()
            loss = loss + weight_per_nat * self._kl_share() * terms["kl"]
        if self.discriminator_is_active if adversarial is None else adversarial:
            game = self.adversarial
            assert game is not None
            terms["adversarial"] = hinge_generator_loss(game.discriminator(reconstructions)).mean()
            weight: Tensor | float = game.weight
            if game.use_adaptive_weight:
                last_layer = self.autoencoder.decoder.conv_out.weight
                weight = game.weight * adaptive_weight(
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
        terms = self.validation_values(batch)
        self.log_dict(
            {name: term.mean() for name, term in terms.items()}, batch_size=len(batch["images"]), sync_dist=True
        )

    def validation_values(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """PSNR in dB, SSIM and the pixel loss of each picture, [B], by the names they are logged as."""
        images = to_unit_range(batch["images"])
        posterior = self.autoencoder.encode(images).latent_dist
        reconstructions = self.autoencoder.decode(posterior.mode()).sample.float().clamp(-1, 1)
        psnr = peak_signal_noise_ratio(
            reconstructions, images, data_range=2.0, reduction="none", dim=tuple(range(1, images.ndim))
        )
        return {
            "val/psnr": psnr,
            "val/ssim": 1 - ssim_error(reconstructions, images),
            "val/reconstruction": self.image_terms["reconstruction"].loss(reconstructions, images),
        }

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
            # Listed once: walking over all modules at each step takes a percent of it.
            if network not in self._to_clip:
                self._to_clip[network] = list(network.parameters())
            nn.utils.clip_grad_norm_(self._to_clip[network], self.gradient_clip_norm)
        if network is self.autoencoder:
            optimizer.step()
        else:  # what that does, but for adding to global_step: only the autoencoder's is a step of the run
            self.trainer.strategy.optimizer_step(optimizer.optimizer, _nothing)
        optimizer.zero_grad(set_to_none=True)


def _nothing() -> None:
    """The closure of a step whose gradients are there already."""
