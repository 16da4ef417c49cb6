"""The one place where a checked recipe becomes objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning import Trainer as LightningTrainer
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from vae_ldm.data.hub_dataset import HubDatasetSource
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.picture_cache import class_caption
from vae_ldm.data.pictures import Pictures
from vae_ldm.data.sources import PictureSource, RenderedClaimsSource
from vae_ldm.errors import DataError, WeightsError
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.losses.perceptual import PerceptualDistance, load_lpips
from vae_ldm.losses.reconstruction import huber_error, l1_error, l2_error
from vae_ldm.models.autoencoder import downsample_factor, load_autoencoder, new_autoencoder, set_trained_part
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.models.text_encoder import load_text_encoder, new_text_encoder, new_tokenizer, tokenize
from vae_ldm.models.unet import new_unet
from vae_ldm.models.vision_features import VisionFeatures, load_efficientnet_lite, load_transformers_backbone
from vae_ldm.recipe import Recipe, parts
from vae_ldm.training.callbacks import RunCheckpoint, SeedEachStep, StopOnNonFinite, WarmedEma
from vae_ldm.training.csv_log import CsvLog
from vae_ldm.training.hardware import Network, fastest_precision
from vae_ldm.training.lit_autoencoder import ImageLoss, LitAutoencoder
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion
from vae_ldm.training.optimizers import OptimizerSettings


def build_source(recipe: Recipe) -> PictureSource:
    """Where the pictures of the recipe come from. Raises DataError where there are none."""
    data = recipe.data
    match data:
        case parts.RenderedClaims():
            return RenderedClaimsSource(
                num_train=data.num_train,
                num_validation=data.num_validation,
                image_size=recipe.image_size,
            )
        case parts.ImageFolder():
            return ImageFolderSource(data.path, caption_column=data.caption_column)
        case parts.HubDataset():
            return HubDatasetSource(**data.model_dump(include=set(parts.HubDataset.model_fields) & _HUB_KEYS))


_HUB_KEYS = {
    "path",
    "config_name",
    "revision",
    "train_split",
    "validation_split",
    "image_column",
    "label_column",
    "caption_column",
    "streaming",
    "max_images",
}


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
    autoencoder = load_autoencoder(stage.from_pretrained, revision=stage.revision, subfolder=stage.subfolder)
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
    height, width = recipe.image_size
    if height % factor or width % factor:
        raise WeightsError(f"{source}: needs sides divisible by {factor}; data.image_size is {height}x{width}")


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
    return LitAutoencoder(
        autoencoder,
        reconstruction=build_image_loss(loss.reconstruction),
        optimizer=_optimizer(stage.optimizer),
        max_steps=trainer.max_steps,
        ssim_weight=loss.ssim_weight,
        kl_weight=loss.kl_weight,
        kl_warmup_steps=loss.kl_warmup_steps,
        variational=stage.variational,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_norm=trainer.gradient_clip_norm,
        log_every_n_steps=trainer.log_every_n_steps,
        **settings,
    )


def class_prompts(recipe: Recipe, class_names: Sequence[str]) -> list[str]:
    """One prompt a class: the caption template, or the empty prompt where the recipe is unconditional."""
    assert recipe.diffusion is not None
    if recipe.diffusion.conditioning == "none":
        return ["" for _ in class_names]
    return [class_caption(recipe.data.caption_template, name) for name in class_names]


def picture_prompts(recipe: Recipe, pictures: Pictures) -> list[str]:
    """The prompt of each picture: none, its class's or its own caption. Raises DataError where it has none."""
    assert recipe.diffusion is not None
    match recipe.diffusion.conditioning:
        case "none":
            return ["" for _ in pictures.ids]
        case "class":
            if not pictures.class_names:
                raise DataError(
                    "diffusion.conditioning is class, but the pictures have no classes; "
                    "put them in one folder a class, or set diffusion.conditioning=none"
                )
            prompts = class_prompts(recipe, pictures.class_names)
            return [prompts[label] if label >= 0 else "" for label in pictures.labels]
        case "caption":
            if not any(pictures.captions):
                raise DataError(
                    "diffusion.conditioning is caption, but no picture has one; set data.caption_column, "
                    "or diffusion.conditioning=class or none"
                )
            return pictures.captions


def build_text_encoder(recipe: Recipe, captions: Sequence[str]) -> tuple[PreTrainedTokenizerBase, CLIPTextModel]:
    """The tokenizer, and the text encoder to train or the frozen pretrained one."""
    assert recipe.diffusion is not None
    part = recipe.diffusion.text_encoder
    if isinstance(part, parts.PretrainedTextEncoder):
        return load_text_encoder(part.from_pretrained, revision=part.revision)
    tokenizer = new_tokenizer(captions, max_length=part.max_length)
    encoder = new_text_encoder(
        tokenizer, hidden_size=part.hidden_size, num_layers=part.num_layers, num_heads=part.num_heads
    )
    return tokenizer, encoder


def build_unet(recipe: Recipe, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel) -> UNet2DConditionModel:
    """The UNet before training; channels and sizes follow from the autoencoder, the pictures and the text encoder."""
    assert recipe.diffusion is not None
    factor = downsample_factor(autoencoder)
    height, width = recipe.image_size
    return new_unet(
        recipe.diffusion.size,
        latent_channels=autoencoder.config.latent_channels,
        latent_size=(height // factor, width // factor),
        cross_attention_dim=text_encoder.config.hidden_size,
        dropout=recipe.diffusion.dropout,
    )


def build_objective(recipe: Recipe) -> DenoisingObjective:
    """What the UNet learns, and how it is sampled."""
    assert recipe.diffusion is not None
    stage = recipe.diffusion
    return DenoisingObjective(
        stage.prediction_type,
        stage.timestep_sampling,
        min_snr_gamma=stage.min_snr_gamma,
        zero_terminal_snr=stage.zero_terminal_snr,
    )


@dataclass(frozen=True, eq=False)
class DiffusionParts:
    """Everything of the second stage that becomes part of the pipeline."""

    tokenizer: PreTrainedTokenizerBase
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    scheduler: DPMSolverMultistepScheduler

    def pipeline(self, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
        """The pipeline that plain diffusers opens, in eval mode; no safety checker."""
        return StableDiffusionPipeline(
            vae=autoencoder.eval(),
            text_encoder=self.text_encoder.eval(),
            tokenizer=self.tokenizer,
            unet=self.unet.eval(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def build_diffusion(recipe: Recipe, autoencoder: AutoencoderKL, captions: Sequence[str]) -> DiffusionParts:
    """Tokenizer, text encoder, UNet and scheduler before training."""
    tokenizer, text_encoder = build_text_encoder(recipe, captions)
    unet = build_unet(recipe, autoencoder, text_encoder)
    return DiffusionParts(tokenizer, text_encoder, unet, build_objective(recipe).scheduler())


def build_lit_latent_diffusion(recipe: Recipe, diffusion: DiffusionParts) -> LitLatentDiffusion:
    """UNet and text encoder wrapped for training."""
    assert recipe.diffusion is not None
    stage = recipe.diffusion
    return LitLatentDiffusion(
        diffusion.unet,
        diffusion.text_encoder,
        objective=build_objective(recipe),
        empty_prompt_ids=tokenize(diffusion.tokenizer, [""]),
        optimizer=_optimizer(stage.optimizer),
        max_steps=stage.trainer.max_steps,
        caption_dropout=stage.caption_dropout,
        log_every_n_steps=stage.trainer.log_every_n_steps,
    )


def _optimizer(part: parts.Optimizer) -> OptimizerSettings:
    return OptimizerSettings(**part.model_dump())


def build_trainer(
    part: parts.Trainer,
    *,
    network: Network,
    seed: int,
    ema: parts.Ema | None,
    checkpoint_dir: Path,
    log: CsvLog,
    callbacks: Sequence[Callback],
    manual_optimization: bool,
) -> LightningTrainer:
    """The Lightning Trainer of a stage. One epoch is the whole run: steps are what is counted."""
    batches_per_step = part.accumulate_grad_batches
    standard: list[Callback] = [
        SeedEachStep(seed),
        StopOnNonFinite(checkpoint_dir, part.log_every_n_steps),
        RunCheckpoint(checkpoint_dir, every_n_steps=part.checkpoint_every_n_steps, keep=part.keep_checkpoints),
    ]
    if ema is not None:
        standard.append(WarmedEma(ema.decay))
    return LightningTrainer(
        accelerator="auto",
        devices=1,
        precision=part.precision or fastest_precision(network),
        max_steps=part.max_steps,
        max_epochs=-1,
        # In manual optimisation the module accumulates and clips by itself.
        accumulate_grad_batches=1 if manual_optimization else batches_per_step,
        gradient_clip_val=None if manual_optimization else part.gradient_clip_norm,
        val_check_interval=part.val_every_n_steps * batches_per_step,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        # In manual optimisation Lightning counts batches.
        log_every_n_steps=part.log_every_n_steps * (batches_per_step if manual_optimization else 1),
        logger=log,
        callbacks=[*callbacks, *standard],
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def compile_if_asked(part: parts.Trainer, modules: Sequence[nn.Module], *, say: Callable[[str], None]) -> None:
    """torch.compile in place; where it does not work the modules stay eager and a line says so."""
    if not part.compile:
        return
    torch._dynamo.config.suppress_errors = True  # a graph that cannot be compiled later on runs eagerly
    try:
        torch.compile(torch.cos)(torch.ones(2))
    except RuntimeError as error:
        say(f"torch.compile does not work here ({str(error).splitlines()[0]}); going on without it")
        return
    say("compiling: the first step of a stage takes minutes")
    for module in modules:
        module.compile()


def place_channels_last(part: parts.Trainer, module: LightningModule) -> None:
    """Lay convolution weights out channels-last where the recipe asks for it, or, by default, on a GPU."""
    wanted = torch.cuda.is_available() if part.channels_last is None else part.channels_last
    if wanted:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def prompt_ids(diffusion: DiffusionParts, prompts: Sequence[str]) -> Tensor:
    """Token ids of the prompts, int64 [N, L]; each distinct prompt is tokenized once."""
    distinct = sorted(set(prompts))
    rows = {prompt: row for row, prompt in enumerate(distinct)}
    return tokenize(diffusion.tokenizer, distinct)[[rows[prompt] for prompt in prompts]]
