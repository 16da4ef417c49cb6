"""Running one training stage to its end, from wherever it was stopped."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer

from vae_ldm.assembly import build_trainer, place_channels_last
from vae_ldm.errors import StoppedError, WeightsError
from vae_ldm.recipe import parts
from vae_ldm.recipe.stages import stage_named
from vae_ldm.run.choosing import choose_weights, makes_a_choice, new_averages, validation_halves
from vae_ldm.run.folder import Stage
from vae_ldm.run.loggers import build_loggers
from vae_ldm.run.session import Session
from vae_ldm.text import counted
from vae_ldm.training.callbacks import (
    BatchesTaken,
    BestCheckpoint,
    asked_to_stop,
    checkpoint_step,
)
from vae_ldm.training.checkpoint_file import is_whole, read_checkpoint
from vae_ldm.training.checkpoint_names import BEST_CHECKPOINT, run_checkpoints
from vae_ldm.training.csv_log import CsvLog
from vae_ldm.training.frozen_weights import FrozenWeights
from vae_ldm.training.power_averages import PowerAverages
from vae_ldm.training.progress import StageProgress
from vae_ldm.training.trace import TraceSteps
from vae_ldm.training.weight_average import FusedAverage, WarmedEma


class Stopwatch(Callback):
    """Seconds of training, stops not counted."""

    def __init__(self) -> None:
        self.before = 0.0
        self.started = 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self.before + time.perf_counter() - self.started

    # A run that is resumed at its last step never reaches on_train_start.
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]


def fit_stage(
    session: Session,
    stage: Stage,
    module: LightningModule,
    data: LightningDataModule,
    part: parts.Trainer,
    *,
    ema: parts.Ema | parts.PowerEma | None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train to `max_steps`, going on from the newest whole checkpoint, and return seconds, pictures seen and, where
    the recipe asks for a choice of weights, what was chosen. The module holds the weights to export then.
    """
    declared, checkpoint_dir = stage_named(stage), session.run.checkpoints(stage)
    assert declared.network is not None, f"{stage} trains nothing"
    processes, pictures = session.processes, session.pictures
    checkpoint = processes.first(lambda: newest_checkpoint(checkpoint_dir, session))
    first_step = 0 if checkpoint is None else checkpoint_step(checkpoint)
    if checkpoint is not None:
        session.say(f"{stage}: going on from step {first_step} ({checkpoint})")
        data.start_batch = _first_batch(session, stage, checkpoint)  # type: ignore[attr-defined]
    metric, mode = declared.best(part.best_by)
    halves, everything = None, data.val_indices  # type: ignore[attr-defined]
    if makes_a_choice(part, ema):
        halves = validation_halves(len(pictures.validation), processes.count, stage)
        # As evenly spread as those of a stage without a choice.
        spread = np.linspace(0, len(halves.choosing) - 1, min(len(everything), len(halves.choosing)))
        data.val_indices = halves.choosing[spread.astype(np.int64)]  # type: ignore[attr-defined]
    average: FusedAverage | None = None
    averages: PowerAverages | None = None
    if isinstance(ema, parts.PowerEma):
        average = averages = new_averages(session, stage, module, part, ema)
    elif ema is not None:
        average = WarmedEma(ema.decay)
    batches_per_step = part.accumulate_grad_batches
    taken = BatchesTaken(pictures.key)
    manual = not module.automatic_optimization
    stopwatch = Stopwatch()
    steps = {"first_step": first_step, "batches_per_step": batches_per_step if manual else 1}
    others = build_loggers(session.recipe, stage, session.run.path / stage, **steps) if processes.is_first else []
    progress = StageProgress(
        stage,
        max_steps=part.max_steps,
        pictures_per_step=part.batch_size * batches_per_step * processes.count,
        console=session.console,
    )
    trainer = build_trainer(
        part,
        network=declared.network,
        best=(metric, mode),
        seed=session.recipe.seed,
        average=average,
        checkpoint_dir=checkpoint_dir,
        loggers=[CsvLog(session.run.log(stage), **steps), *others],
        callbacks=[
            stopwatch,
            taken,
            FrozenWeights(stage),
            progress,
            BestCheckpoint(checkpoint_dir, monitor=metric, mode=mode),
            *callbacks,
            *([TraceSteps(session.run.path / stage)] if session.profiles else []),
        ],
        manual_optimization=manual,
        picture_names=pictures.train.ids,
    )
    place_channels_last(part, module, declared.network)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into exit(1); the command line has words for it
            raise KeyboardInterrupt(f"stopped {_where_it_stopped(session, stage, trainer)}") from None
        raise
    except Exception as error:
        # A time limit's SIGTERM ends compilers and loading processes as well, and the step that waits for them fails.
        if asked_to_stop(trainer):
            said = f"stopped by SIGTERM {_where_it_stopped(session, stage, trainer)}"
            raise StoppedError(said) from error
        raise
    finally:
        progress.stop()  # whatever ends it: Lightning tells no callback of an error that another one raises
    # As files have it: safetensors takes nothing else, and sums over another layout come out with other last digits.
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if session.profiles and (trace := session.run.path / stage / "trace.json.gz").exists():
        session.say(f"{stage}: some steps are timed in {trace}; open it in chrome://tracing or ui.perfetto.dev")
    if trainer.global_step < part.max_steps:
        session.say(
            f"{stage}: ended after step {trainer.global_step}: {metric} has not been better for "
            f"{counted(part.stop_after_no_gain_steps or 0, 'step')}"
        )
    facts: dict[str, Any] = {}
    if halves is not None:
        chosen = choose_weights(
            session,
            stage,
            module,
            data,
            part,
            averages,
            halves,
            last_step=trainer.global_step,
            precision=str(trainer.precision),
        )
        facts["choice"] = asdict(chosen)
    return facts | {
        "seconds": round(stopwatch.seconds, 1),
        "num_images": taken.count * part.batch_size,
        "num_steps": trainer.global_step,
        "precision": str(trainer.precision),
    }


def _where_it_stopped(session: Session, stage: Stage, trainer: Trainer) -> str:
    """After which step training stopped, and how many steps are lost because they came after the newest checkpoint."""
    step, saved = trainer.global_step, 0
    with suppress(WeightsError):  # a best.ckpt that is damaged; no run goes on from it either
        saved = session.run.saved_step(stage) or 0
    if not step:
        return "before the first step was done"
    if step <= saved:
        return f"after step {step}, which is saved"
    lost = step - saved
    since = f" since the checkpoint of step {saved}" if saved else ""
    return f"after step {step}; {counted(lost, 'step')}{since} {'is' if lost == 1 else 'are'} lost"


def newest_checkpoint(folder: Path, session: Session) -> Path | None:
    """The checkpoint of the highest step that is whole, else the best one; damaged ones are told in a line each."""
    found = [*run_checkpoints(folder), *folder.glob(BEST_CHECKPOINT)]
    for path in found:
        if is_whole(path):
            return path
        session.say(f"{path} is damaged; trying the one before")
    if found:
        session.say("no checkpoint is whole; beginning at step 0")
    return None


def module_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights to use (averaged, where there is an EMA) of a checkpoint; nothing but tensors is unpickled.

    Raises WeightsError where it is damaged.
    """
    return read_checkpoint(checkpoint)["state_dict"]


def _first_batch(session: Session, stage: Stage, checkpoint: Path) -> int:
    """The batch that training goes on with; says so where pictures or processes are others than they were."""
    processes, pictures = session.processes, session.pictures
    first, once, learned = BatchesTaken.in_checkpoint(checkpoint)
    if learned not in (None, pictures.key):
        session.say(
            f"{stage}: the pictures are others than before ({len(pictures.train):,} to train on now): from here on "
            "weights are not those of an undisturbed run; begin anew with --restart, or under another name"
        )
    if once != processes.count:
        session.say(
            f"{stage}: the checkpoint was written by {counted(once, 'process')} and is read by "
            f"{processes.count}; pictures come in the same order, but a step takes a different number of them and "
            "the noise differs, so the weights will not be bit-identical to those of an undisturbed run"
        )
    return first
