"""`vae-ldm generate`: pictures from prompts, and a grid of them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from PIL import Image

from vae_ldm.desk.command import DeskCommand
from vae_ldm.errors import VaeLdmError
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.opening import open_pipeline, settings_of
from vae_ldm.pages.image_grid import image_grid
from vae_ldm.paths import check_new_folder
from vae_ldm.pipelines.sampling import check_prompt, sample_images, unknown_words

_BATCH_SIZE = 32
_COLUMNS = 8  # pictures in a row of the grid of several prompts, where as many fit
_LONGEST_WORDS = 60  # letters of a prompt in the name of its folder


def generate(
    source: Path | str,
    prompts: str | Sequence[str],
    *,
    num_images: int = 16,
    seed: int = 0,
    output_dir: Path,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
) -> list[Path]:
    """Files written to `output_dir`: one PNG a picture, `num_images` of each prompt, and grid.png last.

    The pictures of several prompts lie in a folder a prompt, and each prompt is drawn from the same seeds.
    `source` is a run folder, a pipeline folder or a Hub name. Picture i follows from its prompt and (seed, i) alone,
    however many are asked for. Steps and guidance are by default those that the run's recipe evaluates with. Raises
    VaeLdmError where `output_dir` holds something already, or where a prompt is no text or none is given, WeightsError
    where the source cannot be opened.
    """
    command = DeskCommand()
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise VaeLdmError('there is no prompt; "" draws anything')
    for prompt in prompts:
        check_prompt(prompt)
    check_new_folder(output_dir)
    if len(prompts) > 1 and not any(" " in prompt.strip() for prompt in prompts):
        command.say(f"{len(prompts):,} prompts of one word; a prompt of several words is written in quotes")
    pipeline = open_pipeline(source)
    unknown = unknown_words(pipeline, " ".join(prompts))
    if unknown:
        command.say(f"this model was not trained on the words: {', '.join(unknown)}")
    defaults = settings_of(source)

    def draw(asked: Sequence[tuple[str, int]]) -> list[np.ndarray]:
        return sample_images(
            pipeline,
            [prompt for prompt, _ in asked],
            seeds=[seed for _, seed in asked],
            num_inference_steps=num_inference_steps or defaults.num_inference_steps,
            guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
        )

    seeds = range(seed, seed + num_images)
    folders = [output_dir / name for name in _folder_names(prompts)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    images: list[np.ndarray] = []
    asked = [(prompt, number) for prompt in prompts for number in seeds]
    for drawn in in_batches(draw, asked, _pictures_at_once(pipeline)):
        images += drawn
    files = [folder / f"{number:06d}.png" for folder in folders for number in seeds]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image.squeeze()).save(file)
    grid = output_dir / "grid.png"
    _grid(np.stack(images), prompts).save(grid)
    return [*files, grid]


def _folder_names(prompts: Sequence[str]) -> list[str]:
    """The folder of each prompt below the folder of pictures: that one itself for a single prompt."""
    if len(prompts) == 1:
        return ["."]
    digits = len(str(len(prompts)))
    words = [re.sub(r"\W+", "-", prompt).strip("-")[:_LONGEST_WORDS].rstrip("-") for prompt in prompts]
    return [f"{number:0{digits}d}-{name or 'anything'}" for number, name in enumerate(words, 1)]


def _grid(images: np.ndarray, prompts: Sequence[str]) -> Image.Image:
    """About a square of the pictures of one prompt; those of several in groups, each above its prompt."""
    if len(prompts) == 1:
        return image_grid(images, num_columns=math.ceil(len(images) ** 0.5), on_paper=True)
    each = len(images) // len(prompts)
    groups = min(len(prompts), max(1, _COLUMNS // each))
    captions = [prompt or "(no prompt)" for prompt in prompts]
    return image_grid(images, num_columns=groups * each, group_size=each, captions=captions, on_paper=True)


def _pictures_at_once(pipeline: StableDiffusionPipeline) -> int:
    size = pipeline.unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else size
    height, width = (side * pipeline.vae_scale_factor for side in sides)
    return batch_size_for((height, width), most=_BATCH_SIZE)
