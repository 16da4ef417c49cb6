"""What a run says while it trains: a bar with the time left on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vae_ldm.hardware import memory_in_use

_SECONDS_BETWEEN_LINES = 20.0
_SHOWN = {
    "train/loss": "loss",
    "val/psnr": "validation PSNR",
    "val/loss": "validation loss",
    "val/distance": "distance from the teacher",
}


class StageProgress(ProgressBar):
    """Steps done, pictures a second, memory, the loss and the time left of one stage."""

    def __init__(self, stage: str, *, max_steps: int, pictures_per_step: int, console: Console | None = None) -> None:
        super().__init__()
        self.stage = stage
        self.max_steps = max_steps
        self.pictures_per_step = pictures_per_step
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._last_step = 0
        self._last_line = 0.0
        self._rate: float | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        self._last_line = time.monotonic()
        if self.console.is_terminal and trainer.is_global_zero:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                self.stage, total=self.max_steps, completed=trainer.global_step, speed="", loss=""
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        if now - self._last_line > (0.5 if self._progress is not None else _SECONDS_BETWEEN_LINES):
            self._tell(trainer, now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._tell(trainer, time.monotonic())

    def _tell(self, trainer: Trainer, now: float) -> None:
        rate = self._steps_a_second(now, trainer.global_step)
        self._last_line = now
        metrics = trainer.callback_metrics
        terms = [f"{name} {float(metrics[key]):.4g}" for key, name in _SHOWN.items() if key in metrics]
        speed = f"{rate * self.pictures_per_step:.0f} pictures/s, {memory_in_use() / 2**30:.1f} GiB"
        if self._progress is not None:
            loss = "  ".join(terms)
            self._progress.update(self._task, completed=trainer.global_step, speed=speed, loss=loss)
        else:
            left = format_seconds((self.max_steps - trainer.global_step) / rate) if rate else "unknown time"
            line = ", ".join([f"step {trainer.global_step}/{self.max_steps}", speed, *terms, f"{left} left"])
            self.console.print(f"{self.stage}: {line}", highlight=False, soft_wrap=True)

    def _steps_a_second(self, now: float, step: int) -> float:
        """Speed of late: half of it from the time since the last line, so that a pause or another job soon shows."""
        since = (step - self._last_step) / max(now - self._last_line, 1e-9)
        self._rate = since if self._rate is None else (self._rate + since) / 2
        self._last_step = step
        return self._rate

    def stop(self) -> None:
        """Let go of the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def format_seconds(seconds: float) -> str:
    """A duration as people say it: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
