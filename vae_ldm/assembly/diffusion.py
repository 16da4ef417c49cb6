"""Makes tokenizer, text encoder, UNet, scheduler and their training module from the recipe's second stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from vae_ldm.assembly.trainer import build_optimizer, checkpoint_gradients_if_asked
from vae_ldm.errors import VaeLdmError, WeightsError
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.losses.noise_assignment import check_assignment
from vae_ldm.models.autoencoder import downsample_factor
from vae_ldm.models.lora import LoraBase, add_lora, has_lora, merged
from vae_ldm.models.pretrained import load_pretrained, load_scheduler
from vae_ldm.models.text_encoder import load_text_encoder, new_text_encoder, new_tokenizer, tokenize
from vae_ldm.models.unet import is_student, new_unet, sample_size, set_trained_unet_part
from vae_ldm.pipelines.schedulers import new_scheduler
from vae_ldm.recipe import Recipe, parts
from vae_ldm.training.frozen_weights import leave_frozen_out
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion
from vae_ldm.weights import check_components, local_folder, pipeline_folder


def build_text_encoder(recipe: Recipe, captions: Sequence[str]) -> tuple[PreTrainedTokenizerBase, CLIPTextModel]:
    """The tokenizer, and the text encoder to train or the frozen pretrained one."""
    assert recipe.diffusion is not None
    part = recipe.diffusion.text_encoder
    if isinstance(part, parts.PretrainedTextEncoder):
        return load_text_encoder(str(local_folder(part.from_pretrained, revision=part.revision)))
    tokenizer = new_tokenizer(captions, max_length=part.max_length, min_length=part.fewest_tokens)
    encoder = new_text_encoder(
        tokenizer, hidden_size=part.hidden_size, num_layers=part.num_layers, num_heads=part.num_heads
    )
    return tokenizer, encoder


def build_unet(recipe: Recipe, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel) -> UNet2DConditionModel:
    """The UNet before training; channels and sizes follow from the autoencoder, the pictures and the text encoder."""
    assert recipe.diffusion is not None
    return new_unet(
        recipe.diffusion.size,
        latent_channels=autoencoder.config.latent_channels,
        latent_size=_latent_size(recipe, autoencoder),
        cross_attention_dim=text_encoder.config.hidden_size,
        dropout=recipe.diffusion.dropout,
    )


def _latent_size(recipe: Recipe, autoencoder: AutoencoderKL) -> tuple[int, int]:
    factor = downsample_factor(autoencoder)
    height, width = recipe.image_size
    return height // factor, width // factor


def build_objective(recipe: Recipe, scheduler: SchedulerMixin | None = None) -> DenoisingObjective:
    """What the UNet learns, and how it is sampled; of a pretrained one its pipeline's `scheduler` says so."""
    assert recipe.diffusion is not None
    stage = recipe.diffusion
    if stage.from_pretrained is not None:
        assert scheduler is not None, "a pretrained UNet comes with a scheduler"
        return DenoisingObjective.of_scheduler(scheduler, stage.timestep_sampling, min_snr_gamma=stage.min_snr_gamma)
    return DenoisingObjective(
        stage.prediction_type,
        stage.timestep_sampling,
        min_snr_gamma=stage.min_snr_gamma,
        zero_terminal_snr=stage.zero_terminal_snr,
        flow_shift=stage.flow_shift or 1.0,
    )


@dataclass(frozen=True, eq=False)
class DiffusionParts:
    """Everything of the second stage that becomes part of the pipeline."""

    tokenizer: PreTrainedTokenizerBase
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    scheduler: SchedulerMixin

    def pipeline(self, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
        """The pipeline that plain diffusers opens, in eval mode, a LoRA merged into it; no safety checker."""
        return StableDiffusionPipeline(
            vae=autoencoder.eval(),
            text_encoder=self.text_encoder.eval(),
            tokenizer=self.tokenizer,
            unet=(merged(self.unet) if has_lora(self.unet) else self.unet).eval(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def build_diffusion(recipe: Recipe, autoencoder: AutoencoderKL, captions: Sequence[str]) -> DiffusionParts:
    """Tokenizer, text encoder, UNet and scheduler before training, with what is not trained frozen."""
    assert recipe.diffusion is not None
    if recipe.diffusion.from_pretrained is not None:
        return _pretrained_diffusion(recipe, recipe.diffusion.from_pretrained, autoencoder)
    tokenizer, text_encoder = build_text_encoder(recipe, captions)
    unet = build_unet(recipe, autoencoder, text_encoder)
    scheduler = new_scheduler(
        recipe.diffusion.prediction_type,
        zero_terminal_snr=recipe.diffusion.zero_terminal_snr,
        flow_shift=recipe.diffusion.flow_shift or 1.0,
    )
    return DiffusionParts(tokenizer, text_encoder, unet, scheduler)


def _pretrained_diffusion(recipe: Recipe, source: str, autoencoder: AutoencoderKL) -> DiffusionParts:
    stage = recipe.diffusion
    assert stage is not None
    folder = pipeline_folder(local_folder(source, revision=stage.revision))
    check_components(source, folder)
    tokenizer, text_encoder = load_text_encoder(str(folder))
    unet = load_pretrained(UNet2DConditionModel, str(folder), subfolder="unet")
    _check_unet_fits(source, unet, autoencoder, text_encoder)
    # What it draws by default is from now on of the pictures' size.
    unet.register_to_config(sample_size=sample_size(_latent_size(recipe, autoencoder)))
    if stage.train == "lora":
        settings = stage.lora.model_dump(exclude={"merge"})
        add_lora(unet, **settings, base=LoraBase(source, stage.revision))
    else:
        set_trained_unet_part(unet, "attention" if stage.train == "attention" else "all")
    text_encoder.requires_grad_(stage.train == "all")
    # Loading leaves both in eval mode, in which their own dropout does nothing; Lightning keeps the modes it is given.
    unet.train()
    text_encoder.train(stage.train == "all")
    scheduler = load_scheduler(folder)
    if stage.flow_shift is not None:
        _shift(source, scheduler, stage.flow_shift)
    return DiffusionParts(tokenizer, text_encoder, unet, scheduler)


def _shift(source: str, scheduler: Any, flow_shift: float) -> None:
    """Give the scheduler another `flow_shift`. Raises WeightsError where that would not reach its noise levels."""
    config = scheduler.config
    if not config.get("use_flow_sigmas") or config.get("flow_shift") is None:
        raise WeightsError(
            f"{source}: its {type(scheduler).__name__} has no flow_shift; leave diffusion.flow_shift out"
        )
    scheduler.register_to_config(flow_shift=flow_shift)


def _check_unet_fits(
    source: str, unet: UNet2DConditionModel, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel
) -> None:
    """Raise WeightsError where the UNet is for other latents or prompts, or wants more than those."""
    if is_student(unet):
        raise WeightsError(
            f"{source}: guidance lies in the weights of its UNet (it has time_cond_proj_dim), which this training "
            "would undo; take the pipeline that it was distilled from"
        )
    channels, latent_channels = unet.config.in_channels, autoencoder.config.latent_channels
    if (channels, unet.config.out_channels) != (latent_channels,) * 2:
        raise WeightsError(
            f"{source}: its UNet takes {channels} channels and gives {unet.config.out_channels}, the autoencoder has "
            f"{latent_channels}; set autoencoder.from_pretrained to that pipeline, one that draws from a prompt alone"
        )
    # "text" is the prompt too, pooled, as our own `nano` has it.
    if unet.config.addition_embed_type not in (None, "text") or unet.config.class_embed_type is not None:
        raise WeightsError(f"{source}: its UNet wants more than a prompt (SDXL's kind); take Stable Diffusion 1 or 2")
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        raise WeightsError(
            f"{source}: its UNet attends to {unet.config.cross_attention_dim} numbers a token, its text encoder gives "
            f"{text_encoder.config.hidden_size}; take a whole pipeline"
        )


def build_lit_latent_diffusion(recipe: Recipe, diffusion: DiffusionParts) -> LitLatentDiffusion:
    """UNet and text encoder wrapped for training.

    Raises VaeLdmError where the last timestep would not be trained, or where the evaluation asks for more denoising
    steps than there are timesteps, which the scheduler cannot give.
    """
    assert recipe.diffusion is not None
    stage, part = recipe.diffusion, recipe.diffusion.text_encoder
    ours = part if stage.from_pretrained is None and isinstance(part, parts.TrainedTextEncoder) else None
    objective = build_objective(recipe, diffusion.scheduler)
    objective.check_trains_last_timestep()
    if recipe.evaluation.num_inference_steps > objective.num_train_timesteps:
        raise VaeLdmError(
            f"evaluation.num_inference_steps: must be at most the {objective.num_train_timesteps} timesteps that "
            f"{stage.from_pretrained} was trained on, not {recipe.evaluation.num_inference_steps}"
        )
    if stage.noise_assignment == "immiscible":
        check_assignment()
    if stage.contrastive_weight and not objective.is_flow:
        raise VaeLdmError(
            f"diffusion.contrastive_weight: is for flow_prediction, and {stage.from_pretrained} predicts "
            f"{objective.prediction_type}; leave it out"
        )
    checkpoint_gradients_if_asked(stage.trainer, diffusion.unet)
    module = LitLatentDiffusion(
        diffusion.unet,
        diffusion.text_encoder,
        objective=objective,
        empty_prompt_ids=tokenize(diffusion.tokenizer, [""]),
        optimizer=build_optimizer(stage.optimizer),
        max_steps=stage.trainer.max_steps,
        caption_dropout=stage.caption_dropout,
        word_dropout=_word_dropout(stage, ours),
        unknown_id=diffusion.tokenizer.unk_token_id if ours is not None else None,
        log_every_n_steps=stage.trainer.log_every_n_steps,
        contrastive_weight=stage.contrastive_weight,
        noise_assignment=stage.noise_assignment,
    )
    leave_frozen_out(module)
    return module


def prompt_ids(diffusion: DiffusionParts, prompts: Sequence[str]) -> Tensor:
    """Token ids of the prompts, int64 [N, L]; each distinct prompt is tokenized once."""
    distinct = sorted(set(prompts))
    rows = {prompt: row for row, prompt in enumerate(distinct)}
    return tokenize(diffusion.tokenizer, distinct)[[rows[prompt] for prompt in prompts]]


def _word_dropout(stage: parts.Diffusion, encoder: parts.TrainedTextEncoder | None) -> float:
    if encoder is None:
        return 0.0
    by_default = 0.01 if stage.conditioning == "caption" else 0.0
    return by_default if encoder.word_dropout is None else encoder.word_dropout
