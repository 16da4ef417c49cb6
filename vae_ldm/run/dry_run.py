"""`vae-ldm train --dry-run`: photos are looked through and everything is tried; nothing is trained or written."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from vae_ldm.assembly import (
    DiffusionParts,
    ReadySource,
    build_autoencoder,
    build_diffusion,
    build_features,
    build_lit_autoencoder,
    build_lit_distillation,
    build_lit_latent_diffusion,
    build_sources,
    build_student,
    class_prompts,
    expected_precision,
    picture_prompts,
    place_channels_last,
    prompt_ids,
)
from vae_ldm.data.crop_advice import crop_advice
from vae_ldm.data.mixture import joined_split
from vae_ldm.data.picture_cache import Count, Preview, examples, inspect_pictures, look_through
from vae_ldm.models.joined_pictures import num_channels, of_one_size
from vae_ldm.models.pixels import as_images
from vae_ldm.recipe import parts
from vae_ldm.recipe.stages import STAGES, from_stage_on, stages_of
from vae_ldm.run.autoencoder_stage import of_common_size
from vae_ldm.run.choosing import snapshots_in_words
from vae_ldm.run.distillation_stage import num_from_photos
from vae_ldm.run.folder import RunFolder, Stage
from vae_ldm.run.session import Session
from vae_ldm.run.step_time import Update, seconds_a_call, seconds_a_step
from vae_ldm.text import counted
from vae_ldm.training.lit_autoencoder import LitAutoencoder
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion
from vae_ldm.training.power_averages import TRACKED_LENGTHS
from vae_ldm.training.progress import format_seconds

_CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}


def describe_run(session: Session, *, restart: Sequence[Stage] = ()) -> None:
    """Print what the command would still do: data, parameters, memory and time of each stage that is not finished.

    Raises what the run itself would raise for wrong data, weights or settings.
    """
    run, say = session.run, session.say
    run.check_writable()
    recipe = session.recipe = run.as_begun(session.recipe, restart=restart)
    run.check_adoptable(recipe, restart=restart)
    afresh = {stage.name for stage in from_stage_on(restart)}
    finished = {stage.name for stage in STAGES if stage.name not in afresh and run.finished(stage.name) is not None}
    if all(stage.name in finished for stage in stages_of(recipe)):
        say(f"{run.path}: all stages are finished; the command would train nothing")
        return
    sources = build_sources(recipe)
    previews = [inspect_pictures(one.source, one.settings) for one in sources]
    is_mixture = isinstance(recipe.data, parts.Mixture)
    pictures = joined_split([one.pictures for one in previews]) if is_mixture else previews[0].pictures
    for one, preview in zip(sources, previews, strict=True):
        _describe_source(session, one, preview)
    channels = num_channels(pictures.images)

    build_features(recipe.evaluation.features)
    torch.manual_seed(recipe.seed)
    autoencoder = build_autoencoder(recipe, image_channels=channels).to(session.device)
    with torch.no_grad():
        for _, some in of_one_size(pictures.images):
            posterior = autoencoder.encode(as_images(some).to(session.device)).latent_dist
    examples_at_hand = as_images(of_common_size(recipe, pictures.images)).to(session.device)
    if "autoencoder" in finished:
        say("autoencoder: finished")
    elif recipe.autoencoder.train == "nothing":
        say(f"autoencoder: {_millions(autoencoder)} parameters, kept as they are")
    else:
        lit_autoencoder = build_lit_autoencoder(recipe, autoencoder)
        _describe_autoencoder(session, lit_autoencoder, examples_at_hand, done=_done(run, "autoencoder", afresh))
    if recipe.diffusion is None:
        say("then: evaluation on all validation pictures, and the report")
        return

    drawn = counted(recipe.evaluation.num_samples, "sample")
    then = f"then: evaluation on all validation pictures and {drawn}, and the report"
    if "diffusion" in finished and (recipe.distillation is None or "distillation" in finished):
        say("diffusion: finished")
        if recipe.distillation is not None:
            say("distillation: finished")
        say(then)
        return
    prompts = picture_prompts(recipe, pictures)
    diffusion = build_diffusion(
        recipe,
        autoencoder,
        [*prompts, *class_prompts(recipe, pictures.class_names), *pictures.captions],
    )
    rows = torch.arange(recipe.diffusion.trainer.batch_size) % len(pictures)
    latents = {
        "mean": posterior.mean[rows],
        "std": posterior.std[rows],
        "prompt_ids": prompt_ids(diffusion, prompts)[rows].to(session.device),
    }
    if "diffusion" in finished:
        say("diffusion: finished")
    else:
        lit_diffusion = build_lit_latent_diffusion(recipe, diffusion)
        _describe_unet(session, lit_diffusion, latents, done=_done(run, "diffusion", afresh))
    if recipe.distillation is not None:
        _describe_distillation(session, diffusion, latents, done=_done(run, "distillation", afresh))
    say(then)


def _describe_source(session: Session, one: ReadySource, preview: Preview) -> None:
    """Print what there is of a source, the only one or one of a mixture, and what cannot be used of it."""
    height, width, channels = preview.pictures.images.shape[1:]
    kind = f"{height} high, {width} wide, {_CHANNELS[channels]}"
    count = None
    if one.part.photo_folder is not None:
        with session.progress("looking through the photos") as report:
            count = look_through(one.source, one.cache(session.run.pictures), one.settings, progress=report)
    found = _found(preview) if count is None else _usable(count)
    name = "data"
    if one.key != "data":
        name = f"{one.key} ({one.part.type}, {100 * one.share:.3g} % of what is drawn)"
    session.say(f"{name}: {found}; pictures {kind}; run folder {session.run.path}")
    if advice := crop_advice(one.source, one.settings.image_size, one.settings.resize, key=one.key):
        session.say(advice)
    if one.part.photo_folder is None and preview.unreadable:
        num_read = len(preview.pictures) + len(preview.unreadable)
        unusable = f"{len(preview.unreadable)} cannot be used: {examples(preview.unreadable)}"
        session.say(f"{one.key}: of the first {num_read}, {unusable}")


def _done(run: RunFolder, stage: Stage, afresh: Collection[str]) -> int:
    """How many steps of an unfinished stage are done, and would not be done again."""
    return 0 if stage in afresh else run.saved_step(stage) or 0


def _describe_autoencoder(session: Session, module: LitAutoencoder, examples_at_hand: Tensor, *, done: int) -> None:
    stage = session.recipe.autoencoder
    part, precision = stage.trainer, expected_precision(stage.trainer, "autoencoder")
    place_channels_last(part, module, "autoencoder")
    module.to(session.device)
    batch = examples_at_hand[torch.arange(part.batch_size) % len(examples_at_hand)]
    if stage.crop_size is not None:
        height, width = (stage.crop_size,) * 2 if isinstance(stage.crop_size, int) else stage.crop_size
        batch = batch[..., :height, :width].contiguous()
    update = Update(
        module.autoencoder,
        clip_norm=part.gradient_clip_norm,
        optimizer=module.optimizer_settings,
        num_averages=_num_averages(stage.ema),
    )

    def seconds(*, adversarial: bool) -> float:
        losses = [(lambda: module.generator_loss(batch, adversarial=adversarial)[1], update)]
        if adversarial:
            assert module.discriminator is not None
            fake = module.generator_loss(batch)[0].detach()
            critic = Update(module.discriminator, clip_norm=part.gradient_clip_norm)
            losses.append((lambda: module.discriminator_loss(batch, fake), critic))
        return seconds_a_step(losses, device=session.device, precision=precision, batches=part.accumulate_grad_batches)

    first_with_critic = part.max_steps if module.adversarial is None else module.adversarial.start_step
    left = max(0, part.max_steps - done)
    alone = min(left, max(0, first_with_critic - done))
    total = alone * seconds(adversarial=False) if alone else 0.0
    if alone < left:
        total += (left - alone) * seconds(adversarial=True)
    _describe_stage(session, "autoencoder", module, part, precision, total, done=done)


def _describe_unet(session: Session, module: LitLatentDiffusion, latents: dict[str, Tensor], *, done: int) -> None:
    stage = session.recipe.diffusion
    assert stage is not None
    part, precision = stage.trainer, expected_precision(stage.trainer, "unet")
    place_channels_last(part, module, "unet")
    module.to(session.device)
    update = Update(
        module,
        clip_norm=part.gradient_clip_norm,
        optimizer=module.optimizer_settings,
        num_averages=_num_averages(stage.ema),
    )
    seconds = seconds_a_step(
        [(lambda: module.denoising_loss(latents, latents["prompt_ids"]).mean(), update)],
        device=session.device,
        precision=precision,
        batches=part.accumulate_grad_batches,
    )
    _describe_stage(session, "diffusion", module, part, precision, max(0, part.max_steps - done) * seconds, done=done)


def _describe_distillation(session: Session, teacher: DiffusionParts, latents: dict[str, Tensor], *, done: int) -> None:
    """The time that the teacher draws, unless it has, and that of both parts of training."""
    recipe, part = session.recipe, session.recipe.distillation
    assert part is not None
    student = build_student(recipe, teacher)
    module = build_lit_distillation(recipe, teacher, student)
    precision = expected_precision(part.trainer, "unet")
    place_channels_last(part.trainer, module, "unet")
    module.to(session.device)
    rows = torch.arange(part.trainer.batch_size) % len(latents["mean"])
    batch, marks = {name: values[rows] for name, values in latents.items()}, module.steps.marks
    levels = {name: torch.full((len(rows),), level) for name, level in zip(("first", "last"), marks[:2], strict=True)}
    batch |= {name: values.to(session.device) for name, values in levels.items()}
    batch |= {"before": batch["mean"], "after": batch["mean"], "jump_prompt_ids": batch["prompt_ids"]}
    batch["guidance"] = torch.full((len(rows),), module.guidance_scale[1], device=session.device)
    update = Update(
        module,
        clip_norm=part.trainer.gradient_clip_norm,
        optimizer=module.optimizer_settings,
        num_averages=_num_averages(part.ema),
    )

    def seconds(loss: Callable[[dict[str, Tensor]], Tensor]) -> float:
        return seconds_a_step(
            [(lambda: loss(batch).mean(), update)],
            device=session.device,
            precision=precision,
            batches=part.trainer.accumulate_grad_batches,
        )

    guided = max(0, min(module.guidance_steps, part.trainer.max_steps) - done)
    total = guided * seconds(module.guidance_loss) if guided else 0.0
    total += max(0, part.trainer.max_steps - done - guided) * seconds(module.jump_loss)
    _describe_stage(session, "distillation", module, part.trainer, precision, total, done=done)
    if done:
        return
    prompts = module.teacher.prompts(batch["prompt_ids"])

    def draw() -> None:
        module.teacher.predict(batch["mean"], module.steps.timesteps(batch["first"]), prompts, batch["guidance"])

    from_photos = num_from_photos(part)
    # Those from photos are followed over half a step of the student on average.
    num_steps = part.num_trajectories * module.steps.last + from_photos * module.steps.last / len(marks[1:]) / 2
    drawing = seconds_a_call(draw, device=session.device) * num_steps / len(rows) / session.processes.count
    numbers = part.num_trajectories * len(marks) + from_photos * 2
    megabytes = 4 * numbers * batch["mean"][0].numel() / 2**20
    session.say(
        f"distillation: before it the teacher draws {part.num_trajectories:,} pictures and begins "
        f"{from_photos:,} times at a photo, in about {format_seconds(drawing)}; that takes {megabytes:.0f} MiB of disk "
        "and memory"
    )


def _num_averages(ema: parts.Ema | parts.PowerEma | None) -> int:
    if ema is None:
        return 0
    return len(TRACKED_LENGTHS) if isinstance(ema, parts.PowerEma) else 1


def _describe_stage(
    session: Session, stage: Stage, module: nn.Module, part: parts.Trainer, precision: str, seconds: float, *, done: int
) -> None:
    count, device = session.processes.count, session.device.type
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    # Weights, gradients and AdamW's two moments (Muon has one) in float32; activations come on top and grow with the
    # batch.
    megabytes = 16 * trained / 2**20
    session.say(
        f"{stage}: {_millions(module)} parameters, {megabytes:.0f} MiB for weights, gradients and optimizer; "
        f"{_steps(part.max_steps, done)} of {'' if count == 1 else f'{count} x '}"
        f"{part.batch_size * part.accumulate_grad_batches} in {precision}, "
        f"about {format_seconds(seconds)} on this {'GPU' if device == 'cuda' else device.upper()}"
    )
    ema = getattr(session.recipe, stage).ema
    if isinstance(ema, parts.PowerEma):
        session.say(f"{stage}: {snapshots_in_words(module, part, ema)}")


def _steps(total: int, done: int) -> str:
    if not done:
        return counted(total, "step")
    return f"{counted(done, 'step')} done, {max(0, total - done):,} left"


def _usable(count: Count) -> str:
    left_out = f", {count.num_unreadable:,} left out" if count.num_unreadable else ""
    return f"{count.num_train:,} training and {counted(count.num_validation, 'validation picture')}{left_out}"


def _found(preview: Preview) -> str:
    train, validation = preview.num_train, preview.num_validation
    if train is None:
        return "an unknown number of pictures found"
    if not validation:
        return f"{counted(train, 'picture')} found, some of which are held out"
    return f"{train:,} training and {counted(validation, 'validation picture')} found"


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f} million"
