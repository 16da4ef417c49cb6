"""`vae-ldm export`: any checkpoint of a run as a folder that plain diffusers opens."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusers import AutoencoderKL
from safetensors import SafetensorError
from torch import nn

from vae_ldm.assembly import build_autoencoder, build_diffusion, build_student
from vae_ldm.choices import Distilled
from vae_ldm.errors import RunError, VaeLdmError, WeightsError, first_line
from vae_ldm.files import whole_folder
from vae_ldm.loading import pipeline
from vae_ldm.models.autoencoder import load_autoencoder_kl
from vae_ldm.models.joined_pictures import num_channels
from vae_ldm.models.stored_config import forget_origin
from vae_ldm.pipelines.plain_folder import save_plain_pipeline
from vae_ldm.recipe.stages import TRAINED, stage_named
from vae_ldm.run.autoencoder_stage import finish_autoencoder
from vae_ldm.run.choosing import choice_in
from vae_ldm.run.diffusion_stage import picture_prompts, save_pipeline, vocabulary
from vae_ldm.run.distillation_stage import opened_parts
from vae_ldm.run.fitting import module_weights
from vae_ldm.run.folder import Stage
from vae_ldm.run.session import Session
from vae_ldm.run.state import Checkpoint, checkpoints, find_checkpoint, is_last
from vae_ldm.training.checkpoint_names import BEST_CHECKPOINT
from vae_ldm.training.frozen_weights import FrozenWeights, check_frozen, frozen_digest


def export_checkpoint(
    run_dir: Path, *, checkpoint: str | None = None, output_dir: Path | None = None, which: Distilled | None = None
) -> Path:
    """The folder written: a StableDiffusionPipeline, or an AutoencoderKL for a checkpoint of the first stage.

    `checkpoint` is "last", "best", a step or a path; the first three are looked for in the diffusion stage, then in the
    autoencoder's. "last" takes the newest weights of the furthest stage. None does so too, unless the recipe has
    `export: best` or chooses an average: then it takes what was chosen, or the best of a stage that is not finished.
    Of a run with `diffusion.distill`, `which` says whether the student or its teacher is meant, whichever of the two
    the run exports; None takes the one that it exports.

    Raises VaeLdmError where there is no such checkpoint, or the output folder exists already, WeightsError where a
    checkpoint is damaged, and RunError where the disk is full.
    """
    session = Session.opened(run_dir)
    run = session.run
    stages = _stages_of(session, which)
    if is_last(checkpoint):
        source = _newest_weights(session, stages, chosen_ones=checkpoint is None)
    else:
        source = _of_checkpoint(find_checkpoint(run.path, str(checkpoint), stages))
    target = output_dir or run.path / f"{stage_named(source.stage).exports[0]}-{source.name}"
    if target.exists():
        raise VaeLdmError(f"{target}: exists already; name another folder with --out, or delete it")
    try:
        _write(session, source, target)
    except SafetensorError as error:  # its name for a full disk, which is no OSError
        raise RunError(f"{target}: weights cannot be written: {first_line(error)}") from error
    session.say(f"{source.name} of the stage {source.stage} is exported to {target}")
    return target


def _stages_of(session: Session, which: Distilled | None) -> tuple[Stage, ...]:
    """The stages to look for weights in, the furthest first."""
    run = session.run
    if which is not None and session.recipe.distillation is None:
        raise VaeLdmError(f"{run.path}: has no {which}: its recipe has no diffusion.distill; leave --{which} out")
    if which is None:
        finished = session.recipe.distillation is not None and run.finished("evaluation") is not None
        if not (finished and run.exported() == "teacher"):
            return tuple(stage.name for stage in reversed(TRAINED))
        return ("diffusion", "autoencoder")
    return ("distillation",) if which == "student" else ("diffusion",)


class _Weights(NamedTuple):
    """Weights of a run to export: a checkpoint, or what a finished stage left."""

    stage: Stage
    name: str
    path: Path


def _write(session: Session, source: _Weights, target: Path) -> None:
    run = session.run
    if not source.path.is_dir():
        _FROM_CHECKPOINT[source.stage](session, source.path, target)
        return
    with whole_folder(target) as part:
        if source.path == run.lora:
            save_plain_pipeline(pipeline(run.path), part)
        elif source.path == run.autoencoder:  # its checkpoints and curves lie there too
            _save_autoencoder(load_autoencoder_kl(str(source.path)), part)
        else:
            shutil.copytree(source.path, part, dirs_exist_ok=True)
            forget_origin(part)  # an older version noted it


def _newest_weights(session: Session, stages: Sequence[Stage], *, chosen_ones: bool) -> _Weights:
    """The weights of the furthest stage: what a finished stage left, whatever its last checkpoint is, else that
    checkpoint. With `chosen_ones` weights that the recipe prefers to the last ones come first.
    """
    run = session.run
    for stage in map(stage_named, stages):
        facts = run.finished(stage.name)
        newest = [_of_checkpoint(found) for found in checkpoints(run.path) if found.stage == stage.name]
        if facts is not None:
            choice = choice_in(facts)
            if choice is not None and not choice.is_last and not chosen_ones and newest:
                return newest[0]
            name = f"step={facts['num_steps']}" if "num_steps" in facts else "as-it-was"
            if choice is not None:
                name = choice.short_name
            folders = [run.path / folder for folder in stage.exports]
            if stage.name == "diffusion" and run.teacher.is_dir():  # pipeline/ may be the student's
                folders.insert(0, run.teacher)
            return _Weights(stage.name, name, next(folder for folder in folders if folder.is_dir()))
        section, best = getattr(session.recipe, stage.name), run.checkpoints(stage.name) / BEST_CHECKPOINT
        if chosen_ones and section is not None and section.trainer.export == "best" and best.is_file():
            return _of_checkpoint(Checkpoint(stage.name, best))
        if newest:
            return newest[0]
    where = "" if len(stages) > 1 else f" of the stage {stages[0]}"
    raise VaeLdmError(f"{run.path}: has no checkpoint{where} yet")


def _of_checkpoint(found: Checkpoint) -> _Weights:
    return _Weights(found.stage, found.path.stem, found.path)


def _export_diffusion(session: Session, checkpoint: Path, target: Path) -> None:
    session.require_finished("autoencoder")
    autoencoder = load_autoencoder_kl(str(session.run.autoencoder))
    prompts = picture_prompts(session.recipe, session.pictures.train)
    diffusion = build_diffusion(session.recipe, autoencoder, vocabulary(session, prompts))
    _load(diffusion.unet, checkpoint, "diffusion", "unet")
    _load(diffusion.text_encoder, checkpoint, "diffusion", "text_encoder")
    save_pipeline(diffusion, autoencoder, target)


def _export_autoencoder(session: Session, checkpoint: Path, target: Path) -> None:
    channels = num_channels(session.pictures.train.images)
    autoencoder = build_autoencoder(session.recipe, image_channels=channels)
    _load(autoencoder, checkpoint, "autoencoder", "autoencoder")
    finish_autoencoder(session, autoencoder)
    with whole_folder(target) as part:
        _save_autoencoder(autoencoder, part)


def _export_student(session: Session, checkpoint: Path, target: Path) -> None:
    teacher = opened_parts(session.run.teacher)
    student = build_student(session.recipe, teacher)
    _load(student.unet, checkpoint, "distillation", "unet")
    save_pipeline(student, load_autoencoder_kl(str(session.run.teacher / "vae")), target)


_FROM_CHECKPOINT: dict[Stage, Callable[[Session, Path, Path], None]] = {
    "autoencoder": _export_autoencoder,
    "diffusion": _export_diffusion,
    "distillation": _export_student,
}
"""What writes a checkpoint of each stage that trains as a folder to use."""


def _save_autoencoder(autoencoder: AutoencoderKL, folder: Path) -> None:
    autoencoder.save_pretrained(folder)
    forget_origin(folder)


def _load(module: nn.Module, checkpoint: Path, stage: Stage, name: str) -> None:
    """Put the weights of a checkpoint into the network that the stage's module calls `name`.

    Raises WeightsError where they are of another network, or were trained beside other frozen weights than it has.
    """
    check_frozen(stage, name, FrozenWeights.in_checkpoint(checkpoint).get(name), frozen_digest(module))
    weights, prefix = module_weights(checkpoint), f"{name}."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    expected = {name: value.shape for name, value in module.state_dict().items()}
    if trained - own.keys() or any(expected.get(name) != value.shape for name, value in own.items()):
        raise WeightsError(
            f"{checkpoint}: holds other weights than the recipe's networks have; take another checkpoint"
        )
    module.load_state_dict(own, strict=False)
