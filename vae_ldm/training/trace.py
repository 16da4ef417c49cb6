"""`--profile`: what a few steps spend their time on, for chrome://tracing or perfetto.dev."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile, schedule

_UNTIMED, _WARM_UP, _TRACED = 2, 2, 4


class TraceSteps(Callback):
    """Writes `folder`/trace.json.gz, of another name in all but the first process, from four batches near the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank = trainer.global_rank
        path = self.folder / (f"trace-{rank}.json.gz" if rank else "trace.json.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=_UNTIMED, warmup=_WARM_UP, active=_TRACED, repeat=1),
            on_trace_ready=lambda made: made.export_chrome_trace(str(path)),
            profile_memory=True,
        )
        self._profile.start()

    def on_train_batch_end(self, *_: Any) -> None:
        if self._profile is not None:
            self._profile.step()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
