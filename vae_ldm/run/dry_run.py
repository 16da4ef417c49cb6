"""`vae-ldm train --dry-run`: everything is built and tried on eight pictures; nothing is trained or written."""

import time
from collections.abc import Callable

import torch
from torch import nn

from vae_ldm.assembly import (
    build_autoencoder,
    build_diffusion,
    build_lit_autoencoder,
    build_lit_latent_diffusion,
    build_source,
    class_prompts,
    picture_prompts,
    prompt_ids,
)
from vae_ldm.data.crop_advice import crop_advice
from vae_ldm.data.picture_cache import Preview, examples, inspect_pictures
from vae_ldm.hardware import Network, fastest_precision
from vae_ldm.models.pixels import as_images
from vae_ldm.recipe import parts
from vae_ldm.run.session import Session
from vae_ldm.training.progress import format_seconds

_NUM_TIMED_STEPS = 3
_CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}


def describe_run(session: Session) -> None:
    """Print what a run of the recipe would do: data, parameters, memory and time a stage.

    Raises what the run itself would raise for wrong data, weights or settings.
    """
    recipe, say = session.recipe, session.say
    source = build_source(recipe)
    preview = inspect_pictures(
        source,
        image_size=recipe.image_size,
        channels=recipe.data.channels,
        resize=recipe.data.resize,
        max_pixels=recipe.data.max_pixels,
        caption_template=recipe.data.caption_template,
    )
    images = preview.pictures.images
    height, width, channels = images.shape[1:]
    kind = f"{height} high, {width} wide, {_CHANNELS[channels]}"
    say(f"data: {_count(preview)}; pictures {kind}; run folder {session.run.path}")
    if advice := crop_advice(source, recipe.image_size, recipe.data.resize):
        say(advice)
    if preview.unreadable:
        num_read = len(images) + len(preview.unreadable)
        say(f"data: of the first {num_read}, {len(preview.unreadable)} cannot be used: {examples(preview.unreadable)}")

    torch.manual_seed(recipe.seed)
    autoencoder = build_autoencoder(recipe, image_channels=channels)
    part = recipe.autoencoder.trainer
    if recipe.autoencoder.train == "nothing":
        say(f"autoencoder: {_millions(autoencoder)} parameters, kept as they are")
    else:
        module = build_lit_autoencoder(recipe, autoencoder)
        batch = as_images(images)[torch.arange(part.batch_size) % len(images)]

        def autoencoder_step() -> torch.Tensor:
            return module.generator_loss(batch)[1]

        _describe_stage(session, "autoencoder", "autoencoder", module, autoencoder_step, part)
    if recipe.diffusion is None:
        say("then: evaluation on all validation pictures, and the report")
        return

    prompts = picture_prompts(recipe, preview.pictures)
    diffusion = build_diffusion(
        recipe,
        autoencoder,
        [*prompts, *class_prompts(recipe, preview.pictures.class_names), *preview.pictures.captions],
    )
    part = recipe.diffusion.trainer
    rows = torch.arange(part.batch_size) % len(images)
    with torch.no_grad():
        posterior = autoencoder.encode(as_images(images)).latent_dist
    latents = {
        "mean": posterior.mean[rows],
        "std": posterior.std[rows],
        "prompt_ids": prompt_ids(diffusion, prompts)[rows],
    }
    lit = build_lit_latent_diffusion(recipe, diffusion)
    _describe_stage(
        session, "diffusion", "unet", lit, lambda: lit.denoising_loss(latents, latents["prompt_ids"]).mean(), part
    )
    say(f"then: evaluation on all validation pictures and {recipe.evaluation.num_samples} samples, and the report")


def _describe_stage(
    session: Session,
    stage: str,
    network: Network,
    module: nn.Module,
    loss: Callable[[], torch.Tensor],
    part: parts.Trainer,
) -> None:
    precision, count = part.precision or fastest_precision(network), session.processes.count
    seconds = _seconds_a_step(loss, bfloat16=precision == "bf16-mixed") * part.accumulate_grad_batches
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    # Weights, gradients and AdamW's two moments in float32; activations come on top and grow with the batch.
    megabytes = 16 * trained / 2**20
    session.say(
        f"{stage}: {_millions(module)} parameters, {megabytes:.0f} MiB for weights, gradients and optimizer; "
        f"{part.max_steps} steps of {'' if count == 1 else f'{count} x '}"
        f"{part.batch_size * part.accumulate_grad_batches} in {precision}, "
        f"about {format_seconds(seconds * part.max_steps)} on this {'GPU' if torch.cuda.is_available() else 'CPU'}"
    )


def _seconds_a_step(loss: Callable[[], torch.Tensor], *, bfloat16: bool) -> float:
    """Forward and backward, the fastest of a few: the optimizer's own part is small."""
    seconds = []
    for _ in range(_NUM_TIMED_STEPS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = loss()
        value.backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _count(preview: Preview) -> str:
    train, validation = preview.num_train, preview.num_validation
    if train is None:
        return "as many pictures as the data set has"
    return f"{train} pictures" + (
        f" to train on, {validation} to judge by" if validation else ", a part of them held out"
    )


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f} million"
