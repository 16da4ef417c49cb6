"""The stages of a run, and what is done with their result."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, Strict

from vae_ldm.recipe.parts.base import ImageSize, Part, Share, WholeNumber
from vae_ldm.recipe.parts.losses import AutoencoderLoss, EfficientNetLite, Features
from vae_ldm.recipe.parts.training import DiffusionTrainer, Ema, Optimizer, Trainer


class Autoencoder(Part):
    """The first stage: photos to latents and back."""

    from_pretrained: str | None = None
    """A run, a folder or Hub name with an AutoencoderKL (SD, SDXL or FLUX layout), a pipeline, or a single .safetensors
    file with the original key names; null: from scratch."""
    revision: str | None = None
    subfolder: str | None = None
    train: Literal["all", "decoder", "nothing"] = "all"
    """What to train of a pretrained one. decoder: encoder, and so every old latent, stays valid."""
    size: Literal["tiny", "small", "sd"] = "tiny"
    downsample_factor: Annotated[Literal[2, 4, 8, 16], WholeNumber] = 4
    latent_channels: PositiveInt = 4
    variational: bool = True
    """False: a plain autoencoder; the latents are the posterior's mean and there is no KL term."""
    crop_size: ImageSize | None = None
    """Train on random crops of this size, which is cheaper a step; validation stays on whole pictures."""
    loss: AutoencoderLoss = AutoencoderLoss()
    optimizer: Optimizer = Optimizer()
    ema: Ema | None = None
    trainer: Trainer = Trainer()


class TrainedTextEncoder(Part):
    """A small CLIPTextModel trained with the UNet, and a word-level tokenizer of the recipe's own captions."""

    type: Literal["trained"] = "trained"
    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    max_length: Annotated[int, Field(ge=4, le=77)] = 24
    """Tokens a caption, begin and end included; longer captions are cut."""
    word_dropout: Share = 0.01
    """Share of words replaced by `<unknown>` in training, so that a prompt with a new word is not drawn at random."""


class PretrainedTextEncoder(Part):
    """A CLIP text encoder and its tokenizer, frozen, from a folder or the Hub."""

    type: Literal["pretrained"] = "pretrained"
    from_pretrained: str
    revision: str | None = None


class Lora(Part):
    """Low-rank updates beside the UNet's own weights (Hu 2021), trained by peft, saved as diffusers' LoRA file."""

    rank: PositiveInt = 8
    alpha: PositiveFloat | None = None
    """The update is scaled by alpha / rank; null: by 1."""
    dropout: Share = 0.0
    target_modules: Annotated[tuple[str, ...], Strict(False), Field(min_length=1)] = (
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

    from_pretrained: str | None = None
    """A run, a pipeline folder or Hub name of Stable Diffusion's kind: UNet, text encoder and scheduler; null: anew."""
    revision: str | None = None
    train: Literal["all", "unet", "attention", "lora"] = "all"
    """all: UNet and text encoder. unet, attention: the text encoder stays. lora: all stays, small updates are added."""
    lora: Lora = Lora()
    size: Literal["nano", "tiny", "small", "base"] = "tiny"
    conditioning: Literal["none", "class", "caption"] = "class"
    text_encoder: Annotated[TrainedTextEncoder | PretrainedTextEncoder, Field(discriminator="type")] = (
        TrainedTextEncoder()
    )
    caption_dropout: Share = 0.1
    """Share of captions replaced by the empty prompt, for classifier-free guidance (Ho & Salimans 2022)."""
    prediction_type: Literal["epsilon", "v_prediction", "flow_prediction"] = "flow_prediction"
    timestep_sampling: Literal["uniform", "logit_normal"] = "logit_normal"
    min_snr_gamma: PositiveFloat | None = None
    """Min-SNR weighting (Hang 2023); for epsilon and v_prediction."""
    zero_terminal_snr: bool = False
    """Rescale the betas so that the last step is pure noise (Lin 2023); for v_prediction."""
    dropout: Share = 0.0
    optimizer: Optimizer = Optimizer()
    ema: Ema | None = Ema()
    trainer: DiffusionTrainer = DiffusionTrainer()


class Evaluation(Part):
    """What is measured after training and shown in report.html."""

    num_samples: PositiveInt = 256
    num_inference_steps: PositiveInt = 12
    guidance_scale: NonNegativeFloat = 2.0
    batch_size: PositiveInt = 64
    features: Features = EfficientNetLite()
    """Features behind FD, KID, precision, recall and nearest neighbours."""


class Hub(Part):
    """Where on the Hub the run is pushed to, as one repository: when it is finished, and on the way if asked."""

    repository: Annotated[str, Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
    """ORG/NAME."""
    private: bool = True
    revision: str | None = None
    """The branch to push to, made where there is none; null: main."""
    tag: str | None = None
    """A name for what was pushed when the run was finished."""
    license: str | None = None
    """An identifier of the Hub, such as apache-2.0; null: that of the pretrained weights, where there are any."""
    push_every_n_steps: PositiveInt | None = None
    """Also push the pipeline as it stands every so many steps of the diffusion stage; null: at the end only."""
    show_photos: bool = False
    """Let held-out photos travel with it, each beside its reconstruction."""
