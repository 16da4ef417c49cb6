"""`vae-ldm generate`: pictures from a prompt, and a grid of them."""

import math
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from PIL import Image

from vae_ldm.desk.command import DeskCommand
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.opening import open_pipeline, settings_of
from vae_ldm.pages.image_grid import image_grid
from vae_ldm.paths import check_new_folder
from vae_ldm.pipelines.sampling import check_prompt, sample_images, unknown_words

_BATCH_SIZE = 32


def generate(
    source: Path | str,
    prompt: str,
    *,
    num_images: int = 16,
    seed: int = 0,
    output_dir: Path,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
) -> list[Path]:
    """Files written to `output_dir`: one PNG a picture, and grid.png last.

    `source` is a run folder, a pipeline folder or a Hub name. Picture i follows from (seed, i) alone, however many
    are asked for. Steps and guidance are by default those that the run's recipe evaluates with. Raises VaeLdmError
    where `output_dir` holds something already or the prompt is no text, WeightsError where the source cannot be opened.
    """
    command = DeskCommand()
    check_prompt(prompt)
    check_new_folder(output_dir)
    pipeline = open_pipeline(source)
    unknown = unknown_words(pipeline, prompt)
    if unknown:
        command.say(f"this model was not trained on the words: {', '.join(unknown)}")
    defaults = settings_of(source)
    output_dir.mkdir(parents=True, exist_ok=True)
    images: list[np.ndarray] = []

    def draw(seeds: range) -> list[np.ndarray]:
        return sample_images(
            pipeline,
            [prompt] * len(seeds),
            seeds=seeds,
            num_inference_steps=num_inference_steps or defaults.num_inference_steps,
            guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
        )

    for drawn in in_batches(draw, range(seed, seed + num_images), _pictures_at_once(pipeline)):
        images += drawn
    files = [output_dir / f"{seed + number:06d}.png" for number in range(num_images)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image.squeeze()).save(file)
    grid = output_dir / "grid.png"
    image_grid(np.stack(images), num_columns=math.ceil(num_images**0.5), on_paper=True).save(grid)
    return [*files, grid]


def _pictures_at_once(pipeline: StableDiffusionPipeline) -> int:
    size = pipeline.unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else size
    height, width = (side * pipeline.vae_scale_factor for side in sides)
    return batch_size_for((height, width), most=_BATCH_SIZE)
