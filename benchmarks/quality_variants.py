"""What quality_per_minute.py compares: packs, and variants of their recipes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.models import autoencoder
from vae_ldm.models.autoencoder import AutoencoderSize
from vae_ldm.models.unet import UNET_SIZES
from vae_ldm.training.lit_autoencoder import LitAutoencoder


@dataclass(frozen=True)
class Pack:
    """A recipe and the photos that it is given."""

    recipe: str
    """Its path in the checkout."""
    overrides: tuple[str, ...] = ()
    """`{photos}` in them is the folder of --photos."""
    judged_on: tuple[str, int] | None = None
    """Photos below --photos that its autoencoders are judged on, and at what size; None: its own validation."""


@dataclass(frozen=True)
class Variant:
    """A recipe with some keys changed, and, for what no recipe can say, a change of the code while it runs."""

    name: str
    about: str
    overrides: tuple[str, ...] = ()
    in_place: Callable[[], AbstractContextManager[None]] = nullcontext


PACKS = {
    "claims-32": Pack("recipes/claims-32.yaml"),
    "claims-64": Pack(
        "recipes/claims-64.yaml",
        # What its UNet began with, so that the cells say what each change is worth.
        ("diffusion.optimizer={learning_rate: 1.5e-3, warmup_steps: 100}", "diffusion.contrastive_weight=0"),
    ),
    "cans-64": Pack("recipes/damage-cans-64.yaml", ("data.path={photos}/damage_cans",)),
    "clothing-64": Pack("recipes/product-photos-64.yaml", ("data.path={photos}/product_clothing",)),
    "starter": Pack(
        "benchmarks/starter-f8c16.yaml",
        tuple(
            f"data.sources[{place}].path={{photos}}/{name}"
            for place, name in enumerate(
                ("damage_cans", "parcels_porch", "doc_receipts_de", "damage_solar", "tiny_fashion")
            )
        ),
        judged_on=("product_clothing256", 128),
    ),
}


@contextmanager
def shape(*widths: int, layers: int = 1, size: str = "tiny") -> Iterator[None]:
    """A size with other widths and depth."""
    usual = autoencoder.AUTOENCODER_SIZES[size]
    autoencoder.AUTOENCODER_SIZES[size] = AutoencoderSize(widths, layers, usual.norm_num_groups)
    try:
        yield
    finally:
        autoencoder.AUTOENCODER_SIZES[size] = usual


@contextmanager
def unet_shape(widths: tuple[int, ...], attends: tuple[bool, ...], size: str = "nano") -> Iterator[None]:
    """A UNet size with other widths, and attention at other levels."""
    usual = UNET_SIZES[size]
    UNET_SIZES[size] = usual._replace(block_out_channels=widths, attends=attends)
    try:
        yield
    finally:
        UNET_SIZES[size] = usual


@contextmanager
def latent_noise(largest: float) -> Iterator[None]:
    """The decoder learns from latents with noise of up to `largest` standard deviations (l-DeTok, arXiv 2507.15856)."""

    def disturbed(latents: Tensor) -> Tensor:
        share = largest * torch.rand(len(latents), 1, 1, 1)
        return latents + share * latents.detach().std() * torch.randn_like(latents)

    with _changed_latents(lambda: (disturbed, lambda images: images)):
        yield


@contextmanager
def equivariance(share: float = 0.5) -> Iterator[None]:
    """A share of batches is decoded from latents made smaller, or turned by quarters, to images made so (EQ-VAE).

    arXiv 2502.09509, implicit form: scales of 1/4 to 1 of the side, in steps of a latent place.
    """

    def draw() -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        if torch.rand(()) >= share:
            return (lambda latents: latents), (lambda images: images)
        turns, scale = int(torch.randint(4, ())), 0.25 + 0.75 * torch.rand(()).item()

        def on(tensor: Tensor, factor: int = 1) -> Tensor:
            side = max(2, round(scale * tensor.shape[-1] / factor)) * factor
            turned = tensor.rot90(turns, (2, 3))
            return F.interpolate(turned, size=(side, side), mode="bilinear", antialias=True)

        return on, lambda images: on(images, 4)

    with _changed_latents(draw):
        yield


class _Changed:
    """A posterior whose samples are changed."""

    def __init__(self, posterior: Any, change: Callable[[Tensor], Tensor]) -> None:
        self._posterior, self._change = posterior, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._posterior, name)

    def sample(self) -> Tensor:
        """Drawn, then changed."""
        return self._change(self._posterior.sample())


@contextmanager
def _changed_latents(
    draw: Callable[[], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]],
) -> Iterator[None]:
    """While training, latents go through the first function that `draw` gives, and images through the second."""
    usual = LitAutoencoder.generator_loss

    def generator_loss(self: LitAutoencoder, images: Tensor, **settings: Any) -> Any:
        of_latents, of_images = draw()
        encode = self.autoencoder.encode

        def changed(_: Tensor) -> Any:
            return SimpleNamespace(latent_dist=_Changed(encode(images).latent_dist, of_latents))

        self.autoencoder.encode = changed  # type: ignore[method-assign]
        try:
            return usual(self, of_images(images), **settings)
        finally:
            del self.autoencoder.encode

    LitAutoencoder.generator_loss = generator_loss  # type: ignore[method-assign]
    try:
        yield
    finally:
        LitAutoencoder.generator_loss = usual  # type: ignore[method-assign]


def _autoencoder(**keys: object) -> tuple[str, ...]:
    return tuple(f"autoencoder.{key.replace('__', '.')}={value}" for key, value in keys.items())


def _muon(learning_rate: float = 2e-2, **keys: object) -> tuple[str, ...]:
    return _autoencoder(optimizer__type="muon", optimizer__learning_rate=learning_rate, **keys)


def _unet(**keys: object) -> tuple[str, ...]:
    return tuple(f"diffusion.{key.replace('__', '.')}={value}" for key, value in keys.items())


def _unet_muon(learning_rate: float = 2e-2, **keys: object) -> tuple[str, ...]:
    return _unet(optimizer__type="muon", optimizer__learning_rate=learning_rate, **keys)


def _small_batches(learning_rate: float = 2e-2, **keys: object) -> tuple[str, ...]:
    """Muon with batches of 8 and averaged weights, the best of the first cells, and what is changed beside."""
    return _muon(learning_rate, **{"trainer__batch_size": 8, "ema": "{decay: 0.995}", **keys})


def _by_name(*variants: Variant) -> dict[str, Variant]:
    named = {variant.name: variant for variant in variants}
    assert len(named) == len(variants), "two variants of one name"
    return named


VARIANTS = {
    "autoencoder": _by_name(
        Variant("adamw", "AdamW 4e-3, the recipe"),
        Variant("adamw-8e-3", "AdamW 8e-3", _autoencoder(optimizer__learning_rate=8e-3)),
        Variant("adamw-2e-3", "AdamW 2e-3", _autoencoder(optimizer__learning_rate=2e-3)),
        Variant("muon", "Muon 2e-2", _muon()),
        Variant("muon-1e-2", "Muon 1e-2", _muon(1e-2)),
        Variant("muon-4e-2", "Muon 4e-2", _muon(4e-2)),
        Variant("muon-8e-2", "Muon 8e-2", _muon(8e-2)),
        Variant("muon-momentum-0.9", "Muon 2e-2, momentum 0.9", _muon(optimizer__momentum=0.9)),
        Variant("muon-momentum-0.8", "Muon 2e-2, momentum 0.8", _muon(optimizer__momentum=0.8)),
        Variant("muon-3-steps", "Muon 2e-2, 3 Newton-Schulz steps", _muon(optimizer__newton_schulz_steps=3)),
        Variant("muon-adamw-1e-2", "Muon 2e-2, AdamW 1e-2 for the rest", _muon(optimizer__adamw_learning_rate=1e-2)),
        Variant("muon-adamw-2e-3", "Muon 2e-2, AdamW 2e-3 for the rest", _muon(optimizer__adamw_learning_rate=2e-3)),
        Variant("muon-no-decay", "Muon 2e-2, no weight decay", _muon(optimizer__weight_decay=0)),
        Variant("muon-linear", "Muon 2e-2, linear decay", _muon(optimizer__lr_scheduler="linear")),
        Variant("muon-warmup-20", "Muon 2e-2, warm-up of 20 steps", _muon(optimizer__warmup_steps=20)),
        Variant("muon-batch-8", "Muon 2e-2, batches of 8", _muon(trainer__batch_size=8)),
        Variant("muon-batch-4", "Muon 2e-2, batches of 4", _muon(trainer__batch_size=4)),
        Variant("muon-4e-2-batch-8", "Muon 4e-2, batches of 8", _muon(4e-2, trainer__batch_size=8)),
        Variant(
            "muon-batch-8-3-steps",
            "Muon 2e-2, batches of 8, 3 Newton-Schulz steps",
            _muon(trainer__batch_size=8, optimizer__newton_schulz_steps=3),
        ),
        Variant("adamw-batch-8", "AdamW 4e-3, batches of 8", _autoencoder(trainer__batch_size=8)),
        Variant("muon-batch-32", "Muon 2e-2, batches of 32", _muon(trainer__batch_size=32)),
        Variant("muon-ema", "Muon 2e-2, averaged weights (0.995)", _muon(ema="{decay: 0.995}")),
        Variant("muon-batch-8-ema", "Muon 2e-2, batches of 8, averaged weights (0.995)", _small_batches()),
        Variant("small-3e-2", "Muon 3e-2, batches of 8, averaged weights", _small_batches(3e-2)),
        Variant(
            "small-momentum-0.9",
            "Muon 2e-2, batches of 8, averaged weights; momentum 0.9",
            _small_batches(optimizer__momentum=0.9),
        ),
        Variant(
            "small-adamw-1e-2",
            "Muon 2e-2, batches of 8, averaged weights; AdamW 1e-2 for the rest",
            _small_batches(optimizer__adamw_learning_rate=1e-2),
        ),
        Variant(
            "small-no-decay",
            "Muon 2e-2, batches of 8, averaged weights; no weight decay",
            _small_batches(optimizer__weight_decay=0),
        ),
        Variant(
            "small-linear",
            "Muon 2e-2, batches of 8, averaged weights; linear decay",
            _small_batches(optimizer__lr_scheduler="linear"),
        ),
        Variant(
            "small-clip-off",
            "Muon 2e-2, batches of 8, averaged weights; gradients not clipped",
            _small_batches(trainer__gradient_clip_norm="null"),
        ),
        Variant(
            "small-l2",
            "Muon 2e-2, batches of 8, averaged weights; L2 in place of L1",
            _small_batches(loss__reconstruction="{type: l2}"),
        ),
        Variant(
            "small-no-ssim",
            "Muon 2e-2, batches of 8, averaged weights; without SSIM",
            _small_batches(loss__ssim_weight=0),
        ),
        Variant(
            "small-ssim-1",
            "Muon 2e-2, batches of 8, averaged weights; SSIM weighs 1.0",
            _small_batches(loss__ssim_weight=1),
        ),
        Variant(
            "small-kl-4x",
            "Muon 2e-2, batches of 8, averaged weights; KL weighs four times",
            _small_batches(loss__kl_weight_per_latent=0.06144),
        ),
        Variant(
            "small-kl-0.25x",
            "Muon 2e-2, batches of 8, averaged weights; KL weighs a quarter",
            _small_batches(loss__kl_weight_per_latent=0.00384),
        ),
        Variant(
            "small-noise-0.25",
            "Muon 2e-2, batches of 8, averaged weights; latent noise to 0.25",
            _small_batches(),
            lambda: latent_noise(0.25),
        ),
        Variant(
            "small-noise-1",
            "Muon 2e-2, batches of 8, averaged weights; latent noise to 1",
            _small_batches(),
            lambda: latent_noise(1.0),
        ),
        Variant(
            "small-equivariance",
            "Muon 2e-2, batches of 8, averaged weights; equivariance",
            _small_batches(),
            equivariance,
        ),
        Variant(
            "small-narrow",
            "Muon 2e-2, batches of 8, averaged weights; widths 16, 32, 32",
            _small_batches(),
            lambda: shape(16, 32, 32, 64, 64),
        ),
        Variant(
            "small-thin-top",
            "Muon 2e-2, batches of 8, averaged weights; widths 8, 32, 64",
            _small_batches(),
            lambda: shape(8, 32, 64, 64, 64),
        ),
        Variant(
            "small-wide-bottom",
            "Muon 2e-2, batches of 8, averaged weights; widths 16, 32, 128",
            _small_batches(),
            lambda: shape(16, 32, 128, 128, 128),
        ),
        Variant(
            "small-wide",
            "Muon 2e-2, batches of 8, averaged weights; widths 24, 48, 96",
            _small_batches(),
            lambda: shape(24, 48, 96, 96, 96),
        ),
        Variant(
            "small-deep",
            "Muon 2e-2, batches of 8, averaged weights; two layers a block",
            _small_batches(),
            lambda: shape(16, 32, 64, 64, 64, layers=2),
        ),
    ),
    "starter": _by_name(
        # The file that they start from has batches of 16, L1, SSIM 0.3 and KL 1e-3.
        Variant(
            "recipe",
            "batches of 16; widths 16, 48, 64, 96",
            (),
            lambda: shape(16, 48, 64, 96, 96, size="compact"),
        ),
        Variant(
            "batch-8",
            "batches of 8; widths 16, 48, 64, 96",
            _autoencoder(trainer__batch_size=8),
            lambda: shape(16, 48, 64, 96, 96, size="compact"),
        ),
        Variant(
            "batch-8-16-32-64-96",
            "batches of 8; widths 16, 32, 64, 96",
            _autoencoder(trainer__batch_size=8),
        ),
        Variant(
            "batch-8-16-32-64-96-l2",
            "batches of 8; widths 16, 32, 64, 96; L2, KL 1e-4",
            _autoencoder(trainer__batch_size=8, loss__reconstruction="{type: l2}", loss__kl_weight_per_latent="1e-4"),
        ),
    ),
    "unet": _by_name(
        Variant("recipe", "AdamW 1.5e-3"),
        Variant("muon", "Muon 2e-2", _unet_muon()),
        Variant("muon-3-steps", "Muon 2e-2, 3 Newton-Schulz steps", _unet_muon(optimizer__newton_schulz_steps=3)),
        Variant("muon-batch-64", "Muon 2e-2, batches of 64", _unet_muon(trainer__batch_size=64)),
        Variant(
            "muon-3-steps-bf16",
            "Muon 2e-2, 3 Newton-Schulz steps, bfloat16",
            _unet_muon(optimizer__newton_schulz_steps=3, trainer__precision="bf16-mixed"),
        ),
        Variant(
            "muon-3-steps-1e-2", "Muon 1e-2, 3 Newton-Schulz steps", _unet_muon(1e-2, optimizer__newton_schulz_steps=3)
        ),
        Variant(
            "muon-3-steps-4e-2", "Muon 4e-2, 3 Newton-Schulz steps", _unet_muon(4e-2, optimizer__newton_schulz_steps=3)
        ),
        Variant(
            "muon-3-steps-batch-16",
            "Muon 2e-2, 3 Newton-Schulz steps, batches of 16",
            _unet_muon(optimizer__newton_schulz_steps=3, trainer__batch_size=16),
        ),
        Variant(
            "muon-3-steps-bf16-contrastive",
            "Muon 2e-2, 3 Newton-Schulz steps, bfloat16; contrastive flow matching, 0.05",
            _unet_muon(optimizer__newton_schulz_steps=3, trainer__precision="bf16-mixed", contrastive_weight=0.05),
        ),
        Variant(
            "muon-3-steps-bf16-wide",
            "Muon 2e-2, 3 Newton-Schulz steps, bfloat16; widths 96, 128, 160",
            _unet_muon(optimizer__newton_schulz_steps=3, trainer__precision="bf16-mixed"),
            lambda: unet_shape((96, 128, 160), (False, True, False)),
        ),
        Variant(
            "muon-3-steps-dropout",
            "Muon 2e-2, 3 Newton-Schulz steps; dropout 0.1",
            _unet_muon(optimizer__newton_schulz_steps=3, dropout=0.1),
        ),
        Variant(
            "muon-3-steps-uniform",
            "Muon 2e-2, 3 Newton-Schulz steps; noise levels drawn uniformly",
            _unet_muon(optimizer__newton_schulz_steps=3, timestep_sampling="uniform"),
        ),
        Variant(
            "muon-3-steps-four-levels",
            "Muon 2e-2, 3 Newton-Schulz steps; widths 32, 96, 128, 128",
            _unet_muon(optimizer__newton_schulz_steps=3),
            lambda: unet_shape((32, 96, 128, 128), (False, False, True, False)),
        ),
        Variant(
            "muon-3-steps-thin",
            "Muon 2e-2, 3 Newton-Schulz steps; widths 32, 64, 128",
            _unet_muon(optimizer__newton_schulz_steps=3),
            lambda: unet_shape((32, 64, 128), (False, True, False)),
        ),
        Variant("batch-8", "batches of 8", _unet(trainer__batch_size=8)),
        Variant("batch-16", "batches of 16", _unet(trainer__batch_size=16)),
        Variant("batch-64", "batches of 64", _unet(trainer__batch_size=64)),
        Variant("lr-3e-3", "AdamW 3e-3", _unet(optimizer__learning_rate=3e-3)),
        Variant("lr-7e-4", "AdamW 7e-4", _unet(optimizer__learning_rate=7e-4)),
        Variant(
            "constant", "constant rate, 0.995 averages", _unet(optimizer__lr_scheduler="constant", ema="{decay: 0.995}")
        ),
        Variant("flow-shift-2", "flow_shift 2", _unet(flow_shift=2)),
        Variant("flow-shift-0.5", "flow_shift 0.5", _unet(flow_shift=0.5)),
        Variant("uniform", "noise levels drawn uniformly", _unet(timestep_sampling="uniform")),
        Variant("contrastive", "contrastive flow matching, 0.05", _unet(contrastive_weight=0.05)),
        Variant("immiscible", "immiscible noise", _unet(noise_assignment="immiscible")),
        Variant(
            "power-best", "averages of a length chosen afterwards", _unet(ema="{type: power}", trainer__export="best")
        ),
        Variant("dropout", "dropout 0.1", _unet(dropout=0.1)),
    ),
}
"""Of each stage; the first is the recipe as it is."""
