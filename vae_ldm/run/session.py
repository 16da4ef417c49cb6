"""One command at work on one run: the recipe, its folder, its pictures and where messages go."""

import logging
import time
import warnings
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import diffusers
import torch
import transformers
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vae_ldm.build import build_source
from vae_ldm.data.crop_advice import crop_advice
from vae_ldm.data.picture_cache import load_pictures
from vae_ldm.data.pictures import Pictures, PictureSplits, open_pictures
from vae_ldm.errors import VaeLdmError
from vae_ldm.evaluation.report import duration
from vae_ldm.recipe import Recipe, read_recipe
from vae_ldm.run.folder import RunFolder, Stage
from vae_ldm.run.processes import Processes
from vae_ldm.training.hardware import prepare_cpu


@dataclass
class Session:
    """What every stage needs. Pictures are read when first asked for."""

    recipe: Recipe
    run: RunFolder
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    processes: Processes = field(default_factory=Processes.launched)
    profiles: bool = False
    """A few steps of each stage leave a trace of where their time goes."""

    def __post_init__(self) -> None:
        prepare_cpu()
        quieten_libraries()
        if not self.processes.is_first:
            self.console = Console(quiet=True)
            logging.getLogger("vae_ldm").setLevel(logging.ERROR)

    @classmethod
    def of(cls, recipe: Recipe, *, profiles: bool = False) -> "Session":
        """A session in the folder that the recipe names."""
        return cls(recipe, RunFolder(recipe.run_folder), profiles=profiles)

    @property
    def device(self) -> torch.device:
        """Where networks run outside training."""
        return self.processes.device

    def say(self, message: str) -> None:
        """Print a line for the user."""
        self.console.print(message, markup=False)

    @cached_property
    def pictures(self) -> PictureSplits:
        """Both splits, decoded once into the run folder. Raises DataError."""
        found: list[PictureSplits] = []
        self.processes.first(lambda: found.append(self._read_pictures()))
        # The first process has put them into the run folder, where the others find them.
        return found[0] if found else self._read_pictures()

    @property
    def learned(self) -> Pictures:
        """The training pictures as the run has learned from them, also where their source is gone. Raises DataError."""
        cached = open_pictures(self.run.pictures, None)
        return (cached or self.pictures).train

    def _read_pictures(self) -> PictureSplits:
        data = self.recipe.data
        source = build_source(self.recipe)
        if advice := crop_advice(source, self.recipe.image_size, data.resize):
            self.say(advice)
        with self.progress("reading pictures") as report:
            return load_pictures(
                source,
                self.run.pictures,
                image_size=self.recipe.image_size,
                channels=data.channels,
                resize=data.resize,
                max_unreadable_share=data.max_unreadable_share,
                max_pixels=data.max_pixels,
                caption_template=data.caption_template,
                validation_fraction=data.validation_fraction,
                progress=report,
            )

    def require_finished(self, stage: Stage) -> None:
        """Raise VaeLdmError where the stage is not finished."""
        if self.run.finished(stage) is None:
            raise VaeLdmError(f"{self.run.path}: its stage {stage} is not finished; repeat the train command first")

    def say_where(self) -> None:
        """Print where everything of the run lies."""
        run = self.run
        places = {
            "autoencoder": run.autoencoder,
            "pipeline": run.pipeline,
            "lora": run.lora,
            "sample grid": run.samples / "samples.png",
            "report": run.report,
        }
        for what, path in places.items():
            if path.exists():
                self.say(f"{what + ':':13}{path}")

    def progress(self, what: str) -> "StepReport":
        """A bar on a terminal, nothing elsewhere: `with session.progress("reading") as report: report(done, total)`."""
        return StepReport(what, self.console)


def open_run(run_dir: Path) -> Session:
    """A session on an existing run folder. Raises VaeLdmError where it is none."""
    run = RunFolder(run_dir)
    if not run.recipe.is_file():
        raise VaeLdmError(f"{run_dir}: is no run folder (it has no recipe.yaml); give the folder that train made")
    return Session(read_recipe(run.recipe, as_trained=True), run)


_LINES_OF_SPEED = 8


class StepReport:
    """A progress bar that appears with the first call, told (done, total), and says what time is left.

    Without a terminal it is a line soon after the beginning, and then one now and then.
    """

    seconds_to_first_line = 5.0
    seconds_between_lines = 30.0

    def __init__(self, what: str, console: Console) -> None:
        self._what, self._console = what, console
        self._next_line = time.monotonic() + self.seconds_to_first_line
        self._told: deque[tuple[float, int]] = deque(maxlen=_LINES_OF_SPEED)
        """When the first call came, or the last lines were written, and how much was done then."""
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(what, total=None, visible=False)

    def __enter__(self) -> "StepReport":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total, visible=True)
        now = time.monotonic()
        if not self._console.is_terminal and now >= self._next_line:
            of = "" if total is None else f" of {total:,}{self._time_left(now, done, total)}"
            self._console.print(f"{self._what}: {done:,}{of}", markup=False)
            self._next_line = now + self.seconds_between_lines
            self._told.append((now, done))
        elif not self._told:
            self._told.append((now, done))

    def _time_left(self, now: float, done: int, total: int) -> str:
        """At the speed over the last few lines; nothing where nothing has been done since."""
        began, before = self._told[0] if self._told else (now, done)
        if not before < done < total:
            return ""
        return f", about {duration(round((now - began) * (total - done) / (done - before)))} left"


def quieten_libraries() -> None:
    """Keep the libraries' advice about settings that are ours, not the user's, off the screen."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
    for what in ("does not have a deterministic implementation", "defaults to a non-deterministic algorithm"):
        warnings.filterwarnings("ignore", message=f".*{what}")  # see build_trainer
    # It repeats what it cuts off, padding included; generate() says it in its own words.
    logging.getLogger("diffusers.pipelines.stable_diffusion").setLevel(logging.ERROR)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
