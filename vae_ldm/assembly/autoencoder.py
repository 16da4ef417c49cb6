"""From the recipe's first stage to an autoencoder, its losses and its training module."""

from functools import partial
from typing import Any

from diffusers import AutoencoderKL

from vae_ldm.assembly.trainer import build_optimizer
from vae_ldm.errors import WeightsError
from vae_ldm.losses.perceptual import PerceptualDistance, load_lpips
from vae_ldm.losses.reconstruction import huber_error, l1_error, l2_error
from vae_ldm.models.autoencoder import downsample_factor, load_autoencoder, new_autoencoder, set_trained_part
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.models.vision_features import VisionFeatures, load_efficientnet_lite, load_transformers_backbone
from vae_ldm.recipe import Recipe, parts
from vae_ldm.training.frozen_weights import leave_frozen_out
from vae_ldm.training.lit_autoencoder import ImageLoss, LitAutoencoder
from vae_ldm.weights import autoencoder_folder


def build_autoencoder(recipe: Recipe, *, image_channels: int) -> AutoencoderKL:
    """The autoencoder before training, with the part that is not trained frozen.

    Raises WeightsError where a pretrained one cannot be opened or does not fit the pictures.
    """
    stage = recipe.autoencoder
    if stage.from_pretrained is None:
        return new_autoencoder(
            stage.size,
            downsample_factor=stage.downsample_factor,
            latent_channels=stage.latent_channels,
            image_channels=image_channels,
            image_size=recipe.image_size,
        )
    folder = autoencoder_folder(stage.from_pretrained, revision=stage.revision, subfolder=stage.subfolder)
    autoencoder = load_autoencoder(str(folder))
    check_pretrained_fits(autoencoder, recipe, image_channels=image_channels)
    set_trained_part(autoencoder, stage.train)
    return autoencoder


def check_pretrained_fits(autoencoder: AutoencoderKL, recipe: Recipe, *, image_channels: int) -> None:
    """Raise WeightsError where the pretrained autoencoder takes other channels or another size."""
    source, factor = recipe.autoencoder.from_pretrained, downsample_factor(autoencoder)
    if autoencoder.config.in_channels != image_channels:
        raise WeightsError(
            f"{source}: takes pictures of {autoencoder.config.in_channels} channels, the data has {image_channels}; "
            f"set data.channels: {autoencoder.config.in_channels}"
        )
    crop = recipe.autoencoder.crop_size
    sizes = {"data.image_size": recipe.image_size}
    if crop is not None:
        sizes["autoencoder.crop_size"] = (crop, crop) if isinstance(crop, int) else crop
    for key, (height, width) in sizes.items():
        if height % factor or width % factor:
            raise WeightsError(f"{source}: needs sides divisible by {factor}; {key} is {height}x{width}")


def build_image_loss(part: parts.L1 | parts.L2 | parts.Huber) -> ImageLoss:
    """The recipe's pixel loss: (reconstructions, images) -> [B]."""
    match part:
        case parts.L1():
            return l1_error
        case parts.L2():
            return l2_error
        case parts.Huber():
            return partial(huber_error, delta=part.delta)


def build_features(part: parts.EfficientNetLite | parts.TransformersBackbone) -> VisionFeatures:
    """The network whose features the recipe compares pictures by."""
    match part:
        case parts.EfficientNetLite():
            return load_efficientnet_lite()
        case parts.TransformersBackbone():
            return load_transformers_backbone(part.from_pretrained)


def build_lit_autoencoder(recipe: Recipe, autoencoder: AutoencoderKL) -> LitAutoencoder:
    """The autoencoder wrapped for training."""
    stage, trainer = recipe.autoencoder, recipe.autoencoder.trainer
    loss, perceptual, adversarial = stage.loss, stage.loss.perceptual, stage.loss.adversarial
    settings: dict[str, Any] = {}
    if perceptual is not None:
        network = perceptual.network
        settings["perceptual"] = (
            load_lpips(network.net) if isinstance(network, parts.Lpips) else PerceptualDistance(build_features(network))
        )
        settings["perceptual_weight"] = perceptual.weight
    if adversarial is not None:
        settings |= {
            "discriminator": PatchDiscriminator(
                in_channels=autoencoder.config.in_channels,
                base_channels=adversarial.base_channels,
                num_layers=adversarial.num_layers,
            ),
            "discriminator_learning_rate": adversarial.learning_rate,
            "adversarial_weight": adversarial.weight,
            "adversarial_start_step": round(adversarial.start * trainer.max_steps),
            "use_adaptive_weight": adversarial.adaptive_weight,
        }
    module = LitAutoencoder(
        autoencoder,
        reconstruction=build_image_loss(loss.reconstruction),
        optimizer=build_optimizer(stage.optimizer),
        max_steps=trainer.max_steps,
        ssim_weight=loss.ssim_weight,
        kl_weight_per_latent=loss.kl_weight_per_latent or 0.0,
        kl_weight=loss.kl_weight or 0.0,
        kl_warmup_steps=loss.kl_warmup_steps,
        variational=stage.variational,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_norm=trainer.gradient_clip_norm,
        log_every_n_steps=trainer.log_every_n_steps,
        **settings,
    )
    leave_frozen_out(module)
    return module
