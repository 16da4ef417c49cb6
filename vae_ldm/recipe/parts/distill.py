"""How a UNet is taught to draw in few passes."""

from typing import Annotated

from pydantic import Field, Strict

from vae_ldm.choices import MAX_GUIDANCE_SCALE
from vae_ldm.recipe.parts.base import Count, CountOrNone, FreeUnderWay, Part
from vae_ldm.recipe.parts.training import AdamW, Average, Ema, Optimizer, Trainer

_GuidanceScale = Annotated[float, Field(ge=1, le=MAX_GUIDANCE_SCALE)]


class DistillTrainer(Trainer):
    max_steps: Annotated[Count, FreeUnderWay] = 1600
    """Those of both parts together."""
    num_val_images: Annotated[Count, FreeUnderWay] = 64
    """As many noises with prompts of validation pictures, from which teacher and student draw during training."""


class Distill(Part):
    """A student of the UNet that draws with guidance at one pass a step, in few steps. First it learns the guided
    prediction (Meng 2023), then steps that are each as long as several of its teacher's (Salimans & Ho 2022)."""

    num_inference_steps: Annotated[int, Field(ge=1, le=64)] = 4
    """Steps, and so passes, that a picture takes the student."""
    guidance_scale: Annotated[tuple[_GuidanceScale, _GuidanceScale], Strict(False)] = (1.0, 4.0)
    """The lowest and the highest guidance that the student learns; it draws well within them only."""
    guidance_steps: CountOrNone = 300
    """The first so many of trainer.max_steps learn the guided prediction at every noise level, the others few steps."""
    num_trajectories: Count = 2048
    """Pictures that the teacher draws for the student to learn from, before training."""
    photo_share: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    """Share of the jumps that begin at a photo with noise and not at noise alone, as vary and img2img do."""
    num_teacher_steps: Annotated[int, Field(ge=1, le=1000)] = 12
    """Steps of the teacher for one picture, or a few more, so that each step of the student is several of them."""
    optimizer: Optimizer = AdamW()
    ema: Average | None = Ema()
    trainer: DistillTrainer = DistillTrainer()
