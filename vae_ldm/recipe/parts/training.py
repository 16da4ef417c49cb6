"""How a stage is trained."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, Strict

from vae_ldm.choices import ExportedWeights, OnNaN, Precision, SnapshotDtype, ValidationMetric
from vae_ldm.recipe.parts.base import (
    BatchSize,
    Count,
    CountOrNone,
    FreeUnderWay,
    LearningRate,
    Momentum,
    Part,
    PositiveWeight,
)

WeightDecay = Annotated[float, Field(ge=0, le=1000)]
LrScheduler = Literal["constant", "linear", "cosine"]


class AdamW(Part):
    """AdamW (Loshchilov & Hutter 2017) with linear warm-up; it is meant where `type` is left out."""

    type_may_be_left_out: ClassVar[bool] = True

    type: Literal["adamw"] = "adamw"
    learning_rate: LearningRate = 1e-3
    weight_decay: WeightDecay = 0.01
    betas: Annotated[tuple[Momentum, Momentum], Strict(False)] = (0.9, 0.99)
    lr_scheduler: LrScheduler = "cosine"
    warmup_steps: CountOrNone = 50


class Muon(Part):
    """Muon (Jordan 2024) for linear weights and convolution kernels, AdamW for all other parameters."""

    type: Literal["muon"] = "muon"
    learning_rate: LearningRate = 2e-2
    """Of matrices; the singular values of a step are about this large, times sqrt(outputs / inputs) where there are
    more outputs than inputs."""
    momentum: Momentum = 0.95
    newton_schulz_steps: Annotated[int, Field(gt=0, le=20)] = 5
    """Iterations that make a step's matrices orthogonal; fewer are cheaper and less exact."""
    adamw_learning_rate: LearningRate = 4e-3
    """Of embeddings, biases and scales."""
    weight_decay: WeightDecay = 0.01
    betas: Annotated[tuple[Momentum, Momentum], Strict(False)] = (0.9, 0.99)
    lr_scheduler: LrScheduler = "cosine"
    """Of both learning rates."""
    warmup_steps: CountOrNone = 50


def _adamw_where_no_type_is_named(value: object) -> object:
    return {"type": "adamw", **value} if isinstance(value, dict) and "type" not in value else value


Optimizer = Annotated[
    Annotated[AdamW | Muon, Field(discriminator="type")], BeforeValidator(_adamw_where_no_type_is_named)
]


class Ema(Part):
    """Exponential moving average of the weights; it is what is validated and exported. It is meant where `type` is
    left out."""

    type_may_be_left_out: ClassVar[bool] = True

    type: Literal["exponential"] = "exponential"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Reached from below: min(decay, (1 + step) / (10 + step))."""


AverageLength = Annotated[float, Field(ge=0.005, le=0.28)]
"""The standard deviation of an average's weights over time, as a share of the training so far: sigma_rel of EDM2."""


class PowerEma(Part):
    """Two power-function averages of the weights (Karras 2023, EDM2, section 3.1). After training the average of the
    best length is put together from snapshots of both and exported; until then the longer one is validated. It takes
    the memory of two copies of the weights."""

    type: Literal["power"] = "power"
    lengths: Annotated[tuple[AverageLength, ...], Strict(False), Field(min_length=1, max_length=50)] = (
        0.03,
        0.04,
        0.05,
        0.075,
        0.1,
        0.15,
        0.2,
    )
    """Lengths to choose among after training, each the standard deviation of an average's weights over time as a share
    of the training: sigma_rel of EDM2. The last weights, which are no average, are always among the choices."""
    num_snapshots: Annotated[int, Field(ge=2, le=256)] = 16
    """Evenly spread over max_steps; the last one is never written to the disk. More of them reach shorter and longer
    lengths."""
    snapshot_dtype: SnapshotDtype = "float16"
    """Of the files in the stage's folder averages/. Each snapshot holds two numbers for each trained weight."""
    keep_snapshots: Annotated[bool, FreeUnderWay] = False
    """Keep averages/ when the stage is finished."""


def _exponential_where_no_type_is_named(value: object) -> object:
    return {"type": "exponential", **value} if isinstance(value, dict) and "type" not in value else value


Average = Annotated[
    Annotated[Ema | PowerEma, Field(discriminator="type")], BeforeValidator(_exponential_where_no_type_is_named)
]


class Trainer(Part):
    max_steps: Annotated[Count, FreeUnderWay] = 2000
    batch_size: BatchSize = 32
    accumulate_grad_batches: BatchSize = 1
    gradient_clip_norm: PositiveWeight | None = 1.0
    precision: Precision | None = None
    """null: whichever was measured to be faster for this stage on the device at hand."""
    channels_last: bool | None = None
    """null: for a UNet on a GPU; an autoencoder is slower with it there, and neither gains by it on a CPU."""
    deterministic: bool = True
    """Use GPU kernels that give the same bits each time, where there are such, so that a stopped run ends in the
    weights of one that was not stopped. A CPU gives the same bits anyway.
    """
    gradient_checkpointing: Annotated[bool, FreeUnderWay] = False
    """Compute most activations again in the backward pass instead of keeping them (Chen 2016): less memory and more
    time a step, the same gradients."""
    compile: Annotated[bool, FreeUnderWay] = False
    """torch.compile; falls back to eager with a line where it does not work."""
    checkpoint_every_n_steps: Annotated[Count, FreeUnderWay] = 250
    keep_checkpoints: Annotated[Count, FreeUnderWay] = 2
    """The newest so many, and best.ckpt beside them, the one with the best validation."""
    val_every_n_steps: Annotated[Count, FreeUnderWay] = 250
    num_val_images: Annotated[Count, FreeUnderWay] = 256
    """Validation pictures looked at during training; the final evaluation uses all of them."""
    export: ExportedWeights = "last"
    """last: the weights of the last step. best: those of best.ckpt or of the last step, whichever are better. One half
    of the validation pictures then decides, during training too, and the other half judges."""
    best_by: ValidationMetric | None = None
    """What best.ckpt, export: best, ema: {type: power} and stop_after_no_gain_steps go by; null: val/psnr of the
    autoencoder, val/loss of diffusion."""
    stop_after_no_gain_steps: Annotated[Count | None, FreeUnderWay] = None
    """End the stage when `best_by` has not been better than its best for so many steps; the learning rate still
    follows max_steps. null: never."""
    log_every_n_steps: Annotated[Count, FreeUnderWay] = 25
    on_nan: Annotated[OnNaN, FreeUnderWay] = "stop"
    """stop: end the run where the loss is NaN or infinite. skip: leave steps with such gradients out."""
    max_skipped_steps: Annotated[Count, FreeUnderWay] = 10
    """With on_nan: skip, the run ends after this many skipped steps."""


class DiffusionTrainer(Trainer):
    # A class of its own, and not a default Trainer(batch_size=64) in Diffusion: there, setting any other key of the
    # trainer would have brought back 32.
    batch_size: BatchSize = 64
