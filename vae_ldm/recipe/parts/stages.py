"""The stages of a run, and what is done with their result."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from vae_ldm.choices import (
    MAX_DRAWN,
    MAX_GUIDANCE_SCALE,
    Conditioning,
    NoiseAssignment,
    PredictionType,
    TimestepSampling,
    TrainedPart,
)
from vae_ldm.recipe.parts.base import (
    REPOSITORY,
    BatchSize,
    Count,
    DecidedByWeights,
    ImageSize,
    Part,
    PositiveWeight,
    PretrainedWeights,
    Share,
    Subfolder,
    WholeNumber,
    Width,
    Word,
)
from vae_ldm.recipe.parts.distill import Distill
from vae_ldm.recipe.parts.losses import AutoencoderLoss, EfficientNetLite, Features
from vae_ldm.recipe.parts.training import AdamW, Average, DiffusionTrainer, Ema, Optimizer, Trainer


class Autoencoder(Part):
    """The first stage: photos to latents and back."""

    from_pretrained: PretrainedWeights | None = None
    """starter, which comes with the package; a run, a folder or Hub name with an AutoencoderKL (SD, SDXL or FLUX
    layout, or FLUX.2's), a pipeline, or a single .safetensors file with the original key names; null: from scratch."""
    revision: Word | None = None
    subfolder: Subfolder | None = None
    train: TrainedPart = "all"
    """What to train of a pretrained one. decoder: the encoder stays as it is, and so every old latent stays valid."""
    size: Annotated[Literal["tiny", "compact", "small", "sd"], DecidedByWeights] = "tiny"
    downsample_factor: Annotated[Literal[2, 4, 8, 16], WholeNumber, DecidedByWeights] = 4
    latent_channels: Annotated[int, Field(gt=0, le=1024), DecidedByWeights] = 4
    variational: bool = True
    """False: a plain autoencoder; the latents are the posterior's mean and there is no KL term."""
    crop_size: ImageSize | None = None
    """Train on random crops of this size, which is cheaper a step; validation stays on whole pictures."""
    loss: AutoencoderLoss = AutoencoderLoss()
    optimizer: Optimizer = AdamW()
    ema: Average | None = None
    trainer: Trainer = Trainer()


class TrainedTextEncoder(Part):
    """A small CLIPTextModel trained with the UNet, and a word-level tokenizer of the recipe's own captions."""

    type: Literal["trained"] = "trained"
    hidden_size: Width = 64
    num_layers: Annotated[int, Field(gt=0, le=64)] = 2
    num_heads: Annotated[int, Field(gt=0, le=256)] = 4
    max_length: Annotated[int, Field(ge=4, le=77)] = 24
    """Tokens a caption, begin and end included; longer captions are cut."""
    min_length: Annotated[int, Field(ge=2, le=77)] | None = None
    """Tokens that a prompt may have, begin and end included, however short the captions are, up to max_length; null:
    16. A run keeps the number that it was begun with."""
    word_dropout: Share | None = None
    """Share of words replaced by `<unknown>` in training, so that a prompt with a new word is not drawn at random;
    null: 0.01 where conditioning is caption, else 0."""

    @property
    def fewest_tokens(self) -> int:
        """`min_length`, with its default."""
        return 16 if self.min_length is None else self.min_length


class PretrainedTextEncoder(Part):
    """A CLIP text encoder and its tokenizer, frozen, from a folder or the Hub."""

    type: Literal["pretrained"] = "pretrained"
    from_pretrained: PretrainedWeights
    revision: Word | None = None


class Lora(Part):
    """Low-rank updates beside the UNet's own weights (Hu 2021), trained by peft, saved as diffusers' LoRA file."""

    rank: Width = 8
    alpha: PositiveWeight | None = None
    """The update is scaled by alpha / rank; null: by 1."""
    dropout: Share = 0.0
    target_modules: Annotated[tuple[Word, ...], Strict(False), Field(min_length=1, max_length=1000)] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    )
    """Names, or ends of names, of the layers that get an update; by default all of the attention's."""
    merge: bool = False
    """Also write pipeline/ with the updates added to the weights; else the LoRA file alone, beside its base."""


class Diffusion(Part):
    """The second stage: a UNet on cached latents, conditioned by prompt."""

    from_pretrained: PretrainedWeights | None = None
    """A run, a pipeline folder or Hub name of Stable Diffusion's kind: UNet, text encoder and scheduler; null: anew."""
    revision: Word | None = None
    train: Literal["all", "unet", "attention", "lora"] = "all"
    """all: UNet and text encoder. unet, attention: the text encoder stays. lora: all stays, small updates are added."""
    lora: Lora = Lora()
    size: Annotated[Literal["nano", "tiny", "small", "base"], DecidedByWeights] = "tiny"
    conditioning: Conditioning = "class"
    text_encoder: Annotated[
        TrainedTextEncoder | PretrainedTextEncoder, Field(discriminator="type"), DecidedByWeights
    ] = TrainedTextEncoder()
    caption_dropout: Share = 0.1
    """Share of captions replaced by the empty prompt, for classifier-free guidance (Ho & Salimans 2022)."""
    prediction_type: Annotated[PredictionType, DecidedByWeights] = "flow_prediction"
    timestep_sampling: TimestepSampling | None = None
    """null: logit_normal (Esser 2024, eq. 19) for flow_prediction, uniform for epsilon and v_prediction."""
    min_snr_gamma: PositiveWeight | None = None
    """Min-SNR weighting (Hang 2023); for epsilon and v_prediction."""
    zero_terminal_snr: Annotated[bool, DecidedByWeights] = False
    """Rescale the betas so that the last step is pure noise (Lin 2023, algorithm 1); for v_prediction and uniform
    timesteps, because logit_normal never draws the last step and min_snr_gamma weighs it with 0."""
    noise_assignment: NoiseAssignment = "random"
    """immiscible: within a batch the noise is dealt out so that it lies nearest to its latents (Li 2024, immiscible
    diffusion); needs the extra `immiscible`."""
    contrastive_weight: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """For flow_prediction: drives the flows of different prompts apart (Stoica 2025, contrastive flow matching, which
    takes 0.05). 0: off."""
    flow_shift: Annotated[float, Field(gt=0, le=100)] | None = None
    """For flow_prediction: moves noise levels towards pure noise where it is above 1, in training and in the exported
    scheduler (Esser 2024, eq. 23), as larger latents need it. null: 1, or what the scheduler of from_pretrained has."""
    dropout: Annotated[Share, DecidedByWeights] = 0.0
    optimizer: Optimizer = AdamW()
    ema: Average | None = Ema()
    trainer: DiffusionTrainer = DiffusionTrainer()
    distill: Distill | None = None
    """Teach a student of the UNet to draw in few passes. null: off."""


class Evaluation(Part):
    """What is measured after training and shown in report.html."""

    num_samples: Annotated[int, Field(gt=0, le=MAX_DRAWN)] = 256
    num_inference_steps: Annotated[int, Field(gt=0, le=1000)] = 12
    """At most the 1000 timesteps that a UNet is trained on."""
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE)] = 2.0
    num_curve_samples: Annotated[int, Field(ge=0, le=MAX_DRAWN)] = 256
    """Of diffusion.distill: pictures that teacher and student draw, up to num_samples, at each number of passes of the
    curves that compare them, at most about 100 passes a picture in all. 0: no curves."""
    batch_size: BatchSize = 64
    features: Features = EfficientNetLite()
    """Features behind FD, KID, precision, recall and nearest neighbours."""


class Hub(Part):
    """Where on the Hub the run is pushed to, as one repository: when it is finished, and on the way if asked."""

    repository: Annotated[str, Field(max_length=200, pattern=REPOSITORY)]
    """ORG/NAME."""
    private: bool = True
    revision: Word | None = None
    """The branch to push to, made where there is none; null: main."""
    tag: Word | None = None
    """A name for what was pushed when the run was finished."""
    license: Word | None = None
    """An identifier of the Hub, such as apache-2.0; null: that of the pretrained weights, where there are any."""
    push_every_n_steps: Count | None = None
    """Also push the pipeline as it stands every so many steps of the diffusion stage; null: at the end only."""
    show_photos: bool = False
    """Let held-out photos travel with it, each beside its reconstruction."""
