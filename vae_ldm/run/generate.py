"""`vae-ldm generate`: pictures from a prompt, and a grid of them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.console import Console

from vae_ldm import front_door
from vae_ldm.evaluation.image_grid import image_grid
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.unet import sample_size
from vae_ldm.pipelines.latent_diffusion import LatentDiffusionPipeline
from vae_ldm.recipe import Recipe, parts, read_recipe
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.session import quieten_libraries
from vae_ldm.training.hardware import prepare_cpu

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
    are asked for. Steps and guidance are by default those that the run's recipe evaluates with. Raises WeightsError
    where the source cannot be opened.
    """
    prepare_cpu()
    quieten_libraries()
    pipeline = open_pipeline(source)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    unknown = unknown_words(pipeline, prompt)
    if unknown:
        console.print(f"this model was not trained on the words: {', '.join(unknown)}", markup=False)
    tokenizer = pipeline.tokenizer
    too_long = len(tokenizer(prompt).input_ids) - tokenizer.model_max_length
    if too_long > 0:
        console.print(f"the prompt is too long for this model: its last {too_long} tokens are not read")
    recipe = recipe_of(Path(source))
    defaults = parts.Evaluation() if recipe is None else recipe.evaluation
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
    image_grid(np.stack(images), num_columns=math.ceil(num_images**0.5)).save(grid)
    return [*files, grid]


def _pictures_at_once(pipeline: StableDiffusionPipeline) -> int:
    size = pipeline.unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else size
    height, width = (side * pipeline.vae_scale_factor for side in sides)
    return batch_size_for((height, width), most=_BATCH_SIZE)


def recipe_of(source: Path) -> Recipe | None:
    """The recipe of the run, `source` being the run or a pipeline folder in it; None elsewhere."""
    for run in (RunFolder(source), RunFolder(source.resolve().parent)):
        if run.recipe.is_file() and run.autoencoder.is_dir():
            return read_recipe(run.recipe)
    return None


def sample_images(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
) -> list[np.ndarray]:
    """One uint8 picture [H, W, C] a prompt, each from its own seed, whatever else is in the batch."""
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    result = pipeline(
        list(prompts),
        height=height * pipeline.vae_scale_factor,
        width=width * pipeline.vae_scale_factor,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        output_type="np",
    )
    return [np.round(image * 255).astype(np.uint8) for image in result.images]


def open_pipeline(source: Path | str) -> LatentDiffusionPipeline:
    """The pipeline of a run folder, a pipeline folder or a Hub name, on the GPU where there is one; it shows no bar."""
    pipeline = front_door.pipeline(source)
    pipeline.set_progress_bar_config(disable=True)
    recipe = recipe_of(Path(source))
    if recipe is not None:  # the base of a LoRA may draw another size than the run has trained
        height, width = (side // pipeline.vae_scale_factor for side in recipe.image_size)
        pipeline.unet.register_to_config(sample_size=sample_size((height, width)))
    return pipeline


def unknown_words(pipeline: StableDiffusionPipeline, prompt: str) -> list[str]:
    """Words of the prompt, once each, that a word-level tokenizer does not know; a sub-word tokenizer knows all."""
    unknown_id = pipeline.tokenizer.unk_token_id
    if unknown_id is None or unknown_id == pipeline.tokenizer.eos_token_id:
        return []
    words = dict.fromkeys(re.findall(r"\w+", prompt))  # as the tokenizer splits them, without punctuation
    return [word for word in words if unknown_id in pipeline.tokenizer(word).input_ids]
