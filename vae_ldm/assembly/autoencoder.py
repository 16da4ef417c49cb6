"""Makes the autoencoder, its losses and its training module from the recipe's first stage."""

from functools import partial
from pathlib import Path

from diffusers import AutoencoderKL

from vae_ldm.assembly.trainer import build_optimizer, checkpoint_gradients_if_asked
from vae_ldm.errors import WeightsError
from vae_ldm.losses.perceptual import PerceptualDistance, load_lpips
from vae_ldm.losses.reconstruction import huber_error, l1_error, l2_error, ssim_error
from vae_ldm.models.autoencoder import downsample_factor, load_autoencoder_kl, new_autoencoder, set_trained_part
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.models.flux2 import is_flux2
from vae_ldm.models.vision_features import VisionFeatures, load_efficientnet_lite, load_transformers_backbone
from vae_ldm.recipe import Recipe, parts
from vae_ldm.training.frozen_weights import leave_frozen_out
from vae_ldm.training.lit_autoencoder import AdversarialGame, ImageLoss, ImageTerm, LitAutoencoder
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
    autoencoder = load_autoencoder_kl(str(_pretrained(stage)))
    check_pretrained_fits(autoencoder, recipe, image_channels=image_channels)
    set_trained_part(autoencoder, stage.train)
    return autoencoder


def _pretrained(stage: parts.Autoencoder) -> Path:
    """Where the weights of `from_pretrained` lie on this machine, a folder or a single file."""
    assert stage.from_pretrained is not None
    return autoencoder_folder(stage.from_pretrained, revision=stage.revision, subfolder=stage.subfolder)


def starts_from_flux2(recipe: Recipe) -> bool:
    """Whether the recipe's pretrained autoencoder is FLUX.2's, whose latents have no scale of their own a channel."""
    return recipe.autoencoder.from_pretrained is not None and is_flux2(_pretrained(recipe.autoencoder))


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


def build_image_terms(loss: parts.AutoencoderLoss) -> dict[str, ImageTerm]:
    """Every term of the recipe's loss that compares reconstructions with images, by the name it is logged under."""
    terms = {"reconstruction": ImageTerm(1.0, build_image_loss(loss.reconstruction))}
    if loss.ssim_weight:
        terms["ssim_error"] = ImageTerm(loss.ssim_weight, ssim_error)
    if loss.perceptual is not None:
        network = loss.perceptual.network
        distance = (
            load_lpips(network.net) if isinstance(network, parts.Lpips) else PerceptualDistance(build_features(network))
        )
        terms["perceptual"] = ImageTerm(loss.perceptual.weight, distance)
    return terms


def build_lit_autoencoder(recipe: Recipe, autoencoder: AutoencoderKL) -> LitAutoencoder:
    """The autoencoder wrapped for training."""
    stage, trainer = recipe.autoencoder, recipe.autoencoder.trainer
    loss, game = stage.loss, stage.loss.adversarial
    checkpoint_gradients_if_asked(trainer, autoencoder)
    module = LitAutoencoder(
        autoencoder,
        image_terms=build_image_terms(loss),
        optimizer=build_optimizer(stage.optimizer),
        max_steps=trainer.max_steps,
        kl_weight_per_latent=loss.kl_weight_per_latent or 0.0,
        kl_weight=loss.kl_weight or 0.0,
        kl_warmup_steps=loss.kl_warmup_steps,
        variational=stage.variational,
        adversarial=None
        if game is None
        else AdversarialGame(
            PatchDiscriminator(
                in_channels=autoencoder.config.in_channels, base_channels=game.base_channels, num_layers=game.num_layers
            ),
            learning_rate=game.learning_rate,
            weight=game.weight,
            start_step=round(game.start * trainer.max_steps),
            use_adaptive_weight=game.adaptive_weight,
        ),
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_norm=trainer.gradient_clip_norm,
        log_every_n_steps=trainer.log_every_n_steps,
    )
    leave_frozen_out(module)
    return module
