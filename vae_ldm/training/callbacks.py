"""What a run needs beside the step: exact resume, checkpoints, an early end, grids on the way."""

import math
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from vae_ldm.choices import BestEnd
from vae_ldm.errors import StoppedError
from vae_ldm.training.checkpoint_file import read_checkpoint
from vae_ldm.training.checkpoint_names import BEST_CHECKPOINT, run_checkpoints, step_in_name
from vae_ldm.training.weight_average import FusedAverage


class SeedEachStep(Callback):
    """Makes all randomness of batch k a function of (seed, rank, k).

    A resumed run then draws what the uninterrupted one would have drawn, without storing the state of a generator.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Multiplying by odd constants keeps neighbouring (seed, rank, batch) triples apart.
        mixed = (self.seed * 0x9E3779B1 + trainer.global_rank * 0x85EBCA77 + batch_idx * 0xC2B2AE3D) % 2**63
        torch.manual_seed(mixed)


class BatchesTaken(Callback):
    """Counts the batches that all processes together have taken; a checkpoint keeps it, and of which pictures."""

    def __init__(self, pictures: str = "") -> None:
        """`pictures` changes with them."""
        self.pictures = pictures
        self.count = 0
        self.num_processes = 1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.num_processes = trainer.world_size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.count += self.num_processes

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "num_processes": self.num_processes, "pictures": self.pictures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]

    @classmethod
    def in_checkpoint(cls, path: Path) -> tuple[int, int, str | None]:
        """Batches taken until the checkpoint was written, by how many processes at last, and of which pictures."""
        state = read_checkpoint(path, mmap=True)["callbacks"][cls.__name__]
        return state["count"], state["num_processes"], state.get("pictures")


class RunCheckpoint(Checkpoint):
    """Keeps the newest few checkpoints, named by step, to go on from; the last step of a stage is always among them.

    ModelCheckpoint saves before the validation of the same step, which a resumed run then never makes up for, and
    keeps each file that a run was resumed from for ever.

    When the machine asks the process to end (SIGTERM), or any process of the run, the step is finished, saved, and
    StoppedError raised, in all of them.
    """

    def __init__(self, checkpoint_dir: Path, *, every_n_steps: int, keep: int) -> None:
        self.checkpoint_dir = checkpoint_dir
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._last_saved = 0
        self._last_step = 0
        self._asked_to_stop = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        # In place of Lightning's own handler, which is in by now: it stops in mid-step, unsaved, and
        # talks to other processes while it handles the signal. Lightning puts back what was there before.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = trainer.global_step != self._last_step  # a step may take several batches
        self._last_step = trainer.global_step
        every = trainer.val_check_batch if trainer.enable_validation else None
        validation_follows = every is not None and (batch_idx + 1) % every == 0
        if stepped and not validation_follows:
            self._save_if_due(trainer, log_first=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_if_due(trainer)

    def _save_if_due(self, trainer: Trainer, *, log_first: bool = False) -> None:
        step = trainer.global_step
        stops = self._asked_to_stop
        if trainer.world_size > 1:  # all must stop after the same step
            stops = trainer.strategy.reduce_boolean_decision(stops, all=False)
        due = step % self.every_n_steps == 0 or step == trainer.max_steps or trainer.should_stop
        if step != self._last_saved and (stops or due):
            if log_first:  # Lightning does so after this hook; a resumed run would have a gap
                trainer._logger_connector.update_train_step_metrics()
            self._save(trainer, step)
        if stops:
            raise StoppedError(f"stopped by SIGTERM after step {step}, which is saved")

    @property
    def asked_to_stop(self) -> bool:
        """SIGTERM has come."""
        return self._asked_to_stop

    def _on_sigterm(self, signum: int, frame: Any) -> None:
        self._asked_to_stop = True

    def _save(self, trainer: Trainer, step: int) -> None:
        self._last_saved = step
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.checkpoint_dir / f"step={step}.ckpt")
        if trainer.is_global_zero:
            for path in run_checkpoints(self.checkpoint_dir)[self.keep :]:
                path.unlink()


def asked_to_stop(trainer: Trainer) -> bool:
    """SIGTERM has come to this process while the trainer's RunCheckpoint had the signal."""
    return any(callback.asked_to_stop for callback in trainer.callbacks if isinstance(callback, RunCheckpoint))  # type: ignore[attr-defined]


def checkpoint_step(path: Path) -> int:
    """The step in the name of a checkpoint, `step=1200.ckpt`, or in the best one itself.

    Raises WeightsError where that is damaged.
    """
    if path.name == BEST_CHECKPOINT:
        return read_checkpoint(path, mmap=True)["global_step"]
    return step_in_name(path)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation metric as best.ckpt."""

    def __init__(self, checkpoint_dir: Path, *, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath=checkpoint_dir,
            filename=Path(BEST_CHECKPOINT).stem,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the base class, which forgets the best of a run whose folder was moved and keeps a worse one for it."""
        here = Path(str(self.dirpath))
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {key: str(here / Path(state_dict[key]).name) if state_dict[key] else "" for key in paths}
        best = {str(here / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | moved | {"dirpath": self.dirpath, "best_k_models": best})


class StopAfterNoGain(Callback):
    """Ends training when a validation metric has not been better than its best for `num_steps` steps.

    What is best, and since when, is kept in checkpoints, so that a resumed run ends after the same step.
    """

    def __init__(self, num_steps: int, *, monitor: str, mode: BestEnd) -> None:
        self.num_steps = num_steps
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.best_step = 0
        self.last_step = 0

    @property
    def has_stopped(self) -> bool:
        """The last validation was the last one."""
        return self.best is not None and self.last_step - self.best_step >= self.num_steps

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        if trainer.world_size > 1:
            value = trainer.strategy.broadcast(value)
        self.last_step = trainer.global_step
        if self._is_better(value):
            self.best, self.best_step = value, self.last_step
        self._stop(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that was killed after its last step takes no other one."""
        if trainer.global_step == self.last_step:
            self._stop(trainer)

    def _is_better(self, value: float) -> bool:
        """Any number is better than NaN, as BestCheckpoint has it."""
        if self.best is None or math.isnan(self.best):
            return True
        return value < self.best if self.mode == "min" else value > self.best

    def _stop(self, trainer: Trainer) -> None:
        if self.has_stopped:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step, self.last_step = (state_dict[key] for key in ("best", "best_step", "last_step"))


class PictureEachValidation(Callback):
    """Writes what `draw(module)` returns to `folder`/step=N.png at the end of each validation (on the first rank)."""

    def __init__(self, folder: Path, draw: Callable[[LightningModule], Any]) -> None:
        self.folder = folder
        self.draw = draw

    # By on_validation_end the average that was validated has left the module again.
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            self.draw(pl_module).save(self.folder / f"step={trainer.global_step:06d}.png")


class EachNSteps(Checkpoint):
    """Calls `act(module, step)` each n steps but the last (on the first rank), with the average in the module.

    Training goes on as if nothing had happened: random state and modes are put back. It counts as a checkpoint because
    Lightning calls those last, after the average has taken the step.
    """

    def __init__(
        self, every_n_steps: int, act: Callable[[Any, int], None], *, wait: Callable[[], None] = lambda: None
    ) -> None:
        """`wait` comes back when all processes have called it, however long that takes.

        The others would go on into the next step's exchange of gradients, where NCCL gives up after ten minutes.
        """
        self.every_n_steps = every_n_steps
        self.act = act
        self.wait = wait
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_steps or step in (0, self._last_step, trainer.max_steps):
            return
        self._last_step = step  # a step may take several batches
        if trainer.is_global_zero:
            self._act(trainer, pl_module, step)
        self.wait()

    def _act(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        average = next((each for each in trainer.callbacks if isinstance(each, FusedAverage)), None)  # type: ignore[attr-defined]
        modes = [(module, module.training) for module in pl_module.modules()]
        with torch.random.fork_rng(), average.averaged(pl_module) if average is not None else nullcontext():
            self.act(pl_module, step)
        for module, is_training in modes:
            module.training = is_training
