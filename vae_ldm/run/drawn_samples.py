"""Samples of a pipeline, as many and as it is told, and what was measured of them."""

import time
from dataclasses import dataclass

import numpy as np
from diffusers import StableDiffusionPipeline

from vae_ldm.evaluation.evaluator import RealPictures, SampleEvaluation, evaluate_samples
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.unet import is_student
from vae_ldm.pipelines.sampling import sample_images
from vae_ldm.recipe import parts
from vae_ldm.run.sample_prompts import SamplePrompts
from vae_ldm.run.session import Session


@dataclass(frozen=True)
class SamplerSettings:
    """How samples are drawn."""

    num_inference_steps: int
    guidance_scale: float

    def num_passes(self, pipeline: StableDiffusionPipeline) -> int:
        """Passes through the UNet for a picture: a guided step takes two, unless guidance lies in the weights."""
        is_guided = self.guidance_scale > 1 and not is_student(pipeline.unet)
        return self.num_inference_steps * (2 if is_guided else 1)


@dataclass(frozen=True, eq=False)
class DrawnSamples:
    """Samples, uint8 [N, H, W, C], each from its own seed, what was measured of them, and how long drawing took."""

    drawing: SamplerSettings
    num_passes: int
    samples: np.ndarray
    found: SampleEvaluation
    seconds: float


def draw_and_measure(
    session: Session,
    pipeline: StableDiffusionPipeline,
    drawing: SamplerSettings,
    asked: SamplePrompts,
    real: RealPictures,
    settings: parts.Evaluation,
    *,
    reconstruction_agreement: float | None = None,
    what: str = "drawing samples",
) -> DrawnSamples:
    """The samples of what is asked; number i is drawn from seed i, whatever draws it."""
    start = time.perf_counter()
    images: list[np.ndarray] = []
    with session.progress(what) as report:

        def draw(seeds: range) -> list[np.ndarray]:
            return sample_images(
                pipeline,
                [asked.prompts[seed] for seed in seeds],
                seeds=seeds,
                num_inference_steps=drawing.num_inference_steps,
                guidance_scale=drawing.guidance_scale,
            )

        at_once = batch_size_for(session.recipe.image_size, most=settings.batch_size)
        for drawn in in_batches(draw, range(len(asked.prompts)), at_once):
            images += drawn
            report(len(images), len(asked.prompts))
    seconds = round(time.perf_counter() - start, 1)
    found = evaluate_samples(
        np.stack(images),
        asked.labels,
        real,
        as_in_training=asked.as_in_training,
        balanced=asked.balanced,
        reconstruction_agreement=reconstruction_agreement,
        seed=session.recipe.seed,
    )
    return DrawnSamples(drawing, drawing.num_passes(pipeline), np.stack(images), found, seconds)
