"""The stage after the UNet's: a student of it that draws in few passes."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from vae_ldm.assembly import (
    DiffusionParts,
    build_lit_distillation,
    build_student,
    compile_if_asked,
    of_each_picture,
    picture_prompts,
    prompt_ids,
    shares_of,
)
from vae_ldm.choices import Distilled
from vae_ldm.data.jumps import JumpDataset
from vae_ldm.data.posterior_cache import PosteriorDataModule, PosteriorDataset
from vae_ldm.data.sources import SPLITS
from vae_ldm.data.tensor_shards import has_shards, write_shards
from vae_ldm.errors import VaeLdmError
from vae_ldm.files import remove, whole_folder
from vae_ldm.loading import pipeline
from vae_ldm.models.text_encoder import tokenize
from vae_ldm.recipe import parts
from vae_ldm.run.choosing import drop_snapshots
from vae_ldm.run.diffusion_stage import cached_posteriors, save_pipeline
from vae_ldm.run.fingerprint import pipeline_fingerprint
from vae_ldm.run.fitting import fit_stage
from vae_ldm.run.session import Session
from vae_ldm.training.few_steps import FewSteps
from vae_ldm.training.teacher import Teacher
from vae_ldm.training.trajectories import Trajectories

_TRAJECTORIES = ("from_noise", "from_photos")
"""Folders of the stage, each named by the method of Trajectories that fills it."""


def run_distillation_stage(session: Session, autoencoder: AutoencoderKL) -> None:
    """Leaves `student/` and `teacher/` in the run folder, trained now unless it already was.

    What becomes `pipeline/` is settled when both are measured.
    """
    run, part = session.run, session.recipe.distillation
    if part is None:
        return
    if session.processes.first(lambda: run.finished("distillation") is not None):
        session.processes.first(lambda: _tidy(session))
        return
    session.processes.first(lambda: keep_teacher(session))
    recipe = session.recipe
    posteriors = {split: cached_posteriors(session, autoencoder, split) for split in SPLITS}

    torch.manual_seed(recipe.seed)
    teacher = opened_parts(run.teacher)
    student = build_student(recipe, teacher)
    module = build_lit_distillation(recipe, teacher, student)
    if recipe.diffusion is not None and recipe.diffusion.conditioning == "none":
        session.say("distillation: this model knows no prompts, so there is no guidance to learn; it learns few steps")
    datasets = {
        split: PosteriorDataset(
            posteriors[split],
            prompt_ids(teacher, picture_prompts(recipe, getattr(session.pictures, split))),
            seed=recipe.seed,
            augment=split == "train" and of_each_picture(recipe, session.pictures.train, "horizontal_flip"),
        )
        for split in SPLITS
    }
    folders = _draw(session, teacher, module.steps, datasets["train"])
    data = PosteriorDataModule(
        JumpDataset(datasets["train"], *folders, module.steps.marks, seed=recipe.seed),  # type: ignore[arg-type]
        datasets["validation"],
        batch_size=part.trainer.batch_size,
        seed=recipe.seed,
        num_val_images=part.trainer.num_val_images,
        shares=shares_of(recipe, session.pictures.train),
    )
    compile_if_asked(part.trainer, [student.unet], say=session.say)
    facts = fit_stage(session, "distillation", module, data, part.trainer, ema=part.ema)

    def leave() -> None:
        facts.update(pipeline_fingerprint(student.pipeline(autoencoder).to(session.device), run.student_reference))
        save_pipeline(student, autoencoder, run.student)
        run.finish("distillation", **facts)
        _tidy(session)

    session.processes.first(leave)


def _tidy(session: Session) -> None:
    """Delete what a finished stage needs no more."""
    drop_snapshots(session, "distillation")
    for name in _TRAJECTORIES:
        remove(session.run.path / "distillation" / name)


def keep_teacher(session: Session) -> None:
    """Copy `pipeline/`, before a student takes its place, to `teacher/`, unless it lies there.

    Raises VaeLdmError where neither is the teacher.
    """
    run = session.run
    if run.teacher.is_dir():
        return
    if run.exported() == "student":
        raise VaeLdmError(f"{run.teacher}: is gone, and pipeline/ is the student; begin anew with --restart diffusion")
    copy_folder(run.pipeline, run.teacher)


def export_as_pipeline(session: Session, which: Distilled) -> None:
    """Make `pipeline/` the teacher's or the student's, unless it is already."""
    run = session.run
    if run.exported() != which:
        copy_folder(run.student if which == "student" else run.teacher, run.pipeline)


def copy_folder(source: Path, target: Path) -> None:
    """A copy, as a whole or not at all."""
    with whole_folder(target) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)


def opened_parts(folder: Path) -> DiffusionParts:
    """The parts of an exported pipeline, on the CPU."""
    opened = pipeline(folder, device="cpu")
    return DiffusionParts(opened.tokenizer, opened.text_encoder, opened.unet, opened.scheduler)


def num_from_photos(part: parts.Distill) -> int:
    """How many trajectories begin at a photo, so that their jumps are the recipe's share of all."""
    if part.num_teacher_steps == 1:  # then there is no level between noise and picture to begin at
        return 0
    return round(part.num_trajectories * part.num_inference_steps * part.photo_share / (1 - part.photo_share))


def _draw(
    session: Session, teacher: DiffusionParts, steps: FewSteps, photos: PosteriorDataset
) -> tuple[Path, Path | None]:
    """Folders of what the teacher draws, drawn now unless it was: from noise, and from photos, where any are asked for.

    Each process draws its share, in parts that do not depend on how many processes there are.
    """
    part, recipe, processes = session.recipe.distillation, session.recipe, session.processes
    assert part is not None
    assert recipe.diffusion is not None
    folder = session.run.path / "distillation"
    networks = Teacher(teacher.unet, teacher.text_encoder, tokenize(teacher.tokenizer, [""])).to(session.device)
    counts = dict(zip(_TRAJECTORIES, (part.num_trajectories, num_from_photos(part)), strict=True))
    key, total, done = _key(session, steps), sum(counts.values()), 0
    with session.progress("drawing with the teacher") as report:

        def add(count: int) -> None:
            nonlocal done
            done += count * processes.count
            report(min(done, total), total)

        trajectories = Trajectories(
            networks,
            steps,
            photos,
            part.guidance_scale if recipe.diffusion.conditioning != "none" else (1.0, 1.0),
            recipe.diffusion.caption_dropout,
            recipe.seed,
            part.trainer.batch_size,
            add,
            shares_of(recipe, session.pictures.train),
        )
        for name, count in counts.items():
            if count and not processes.first(partial(has_shards, folder / name, key=key)):
                write_shards(
                    getattr(trajectories, name),
                    count,
                    folder / name,
                    name="trajectories",
                    key=key,
                    shard_size=part.trainer.batch_size,
                    rank=processes.rank,
                    num_replicas=processes.count,
                    wait=processes.wait,
                )
    networks.to("cpu")
    return folder / "from_noise", folder / "from_photos" if counts["from_photos"] else None


def _key(session: Session, steps: FewSteps) -> str:
    """All that trajectories follow from."""
    recipe, digest = session.recipe, hashlib.sha256()
    for file in sorted(session.run.teacher.rglob("*")):
        if file.suffix in (".safetensors", ".json"):
            digest.update(file.read_bytes())
    assert recipe.distillation is not None
    assert recipe.diffusion is not None
    settings = recipe.distillation.model_dump(mode="json", exclude={"optimizer", "ema", "trainer"})
    settings |= {"marks": steps.marks, "dropout": recipe.diffusion.caption_dropout, "seed": recipe.seed}
    shares = shares_of(recipe, session.pictures.train)
    weights = [] if shares is None else [shares.weights]
    digest.update(json.dumps([settings, session.pictures.key, *weights], sort_keys=True).encode())
    return digest.hexdigest()
