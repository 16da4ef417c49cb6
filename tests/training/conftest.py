"""A tiny autoencoder, loaders of random pictures, and a bare Trainer."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from vae_ldm.assembly import build_optimizer
from vae_ldm.losses.reconstruction import l1_error, ssim_error
from vae_ldm.models.autoencoder import new_autoencoder
from vae_ldm.recipe import parts
from vae_ldm.training.lit_autoencoder import AdversarialGame, ImageLoss, ImageTerm, LitAutoencoder

Batches = list[dict[str, Tensor]]
Fit = Callable[..., Trainer]


class _Stream(IterableDataset[dict[str, Tensor]]):
    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return itertools.cycle(self.batches)


@pytest.fixture
def fit() -> Fit:
    """`fit(module, batches, max_steps=3)` trains on the batches in turn and gives the Trainer."""

    warnings.filterwarnings("ignore", message=".*LeafSpec")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")

    def train(
        module: LightningModule, batches: Batches, *, max_steps: int, validation: Batches | None = None, **settings: Any
    ) -> Trainer:
        if validation is None:
            settings["limit_val_batches"] = 0
        ckpt_path = settings.pop("ckpt_path", None)
        settings = {"logger": False, "enable_checkpointing": False, "callbacks": []} | settings
        trainer = Trainer(
            accelerator="cpu",
            max_steps=max_steps,
            max_epochs=-1,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **settings,
        )
        loaders = [DataLoader(_Stream(batches), batch_size=None)]
        if validation is not None:
            loaders.append(DataLoader(validation, batch_size=None))  # type: ignore[arg-type]
        trainer.fit(module, *loaders, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return train


@pytest.fixture
def autoencoder(nano_networks: None) -> AutoencoderKL:
    torch.manual_seed(0)
    return new_autoencoder("tiny", downsample_factor=4, latent_channels=4, image_channels=3, image_size=(16, 16))


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [{"images": torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)} for _ in range(4)]


def lit_settings(
    *,
    reconstruction: ImageLoss = l1_error,
    ssim_weight: float = 0.0,
    perceptual: ImageLoss | None = None,
    perceptual_weight: float = 0.0,
    discriminator: nn.Module | None = None,
    discriminator_learning_rate: float = 1e-4,
    adversarial_weight: float = 0.0,
    adversarial_start_step: int = 0,
    use_adaptive_weight: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """LitAutoencoder's settings, each term off unless it is named."""
    terms = {"reconstruction": ImageTerm(1.0, reconstruction)}
    if ssim_weight:
        terms["ssim_error"] = ImageTerm(ssim_weight, ssim_error)
    if perceptual is not None:
        terms["perceptual"] = ImageTerm(perceptual_weight, perceptual)
    adversarial = None
    if discriminator is not None:
        adversarial = AdversarialGame(
            discriminator,
            discriminator_learning_rate,
            adversarial_weight,
            adversarial_start_step,
            use_adaptive_weight,
        )
    return {
        "image_terms": terms,
        "optimizer": build_optimizer(parts.AdamW(learning_rate=1e-3, lr_scheduler="constant", warmup_steps=0)),
        "max_steps": 10,
        "kl_weight_per_latent": 0.0,
        "kl_weight": 0.0,
        "kl_warmup_steps": 0,
        "variational": True,
        "adversarial": adversarial,
        "accumulate_grad_batches": 1,
        "gradient_clip_norm": None,
        "log_every_n_steps": 1,
    } | settings


@pytest.fixture
def lit(autoencoder: AutoencoderKL) -> Callable[..., LitAutoencoder]:
    """`lit(kl_weight=1.0)`: the tiny autoencoder wrapped for training, constant learning rate."""

    def wrap(**settings: Any) -> LitAutoencoder:
        return LitAutoencoder(autoencoder, **lit_settings(**settings))

    return wrap
