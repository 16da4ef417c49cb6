"""From the recipe's second stage to tokenizer, text encoder, UNet, scheduler and their training module."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from vae_ldm.build.trainer import build_optimizer
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.models.autoencoder import downsample_factor
from vae_ldm.models.text_encoder import load_text_encoder, new_text_encoder, new_tokenizer, tokenize
from vae_ldm.models.unet import new_unet
from vae_ldm.recipe import Recipe, parts
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion


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
        optimizer=build_optimizer(stage.optimizer),
        max_steps=stage.trainer.max_steps,
        caption_dropout=stage.caption_dropout,
        log_every_n_steps=stage.trainer.log_every_n_steps,
    )


def prompt_ids(diffusion: DiffusionParts, prompts: Sequence[str]) -> Tensor:
    """Token ids of the prompts, int64 [N, L]; each distinct prompt is tokenized once."""
    distinct = sorted(set(prompts))
    rows = {prompt: row for row, prompt in enumerate(distinct)}
    return tokenize(diffusion.tokenizer, distinct)[[rows[prompt] for prompt in prompts]]
