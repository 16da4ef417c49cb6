"""One command at work on one run: the recipe, its folder, its pictures and where messages go."""

import logging
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from rich.console import Console

from vae_ldm.data.pictures import PictureSplits
from vae_ldm.hardware import prepare_cpu
from vae_ldm.opening import read_pictures, read_run_recipe
from vae_ldm.processes import Processes
from vae_ldm.recipe import Recipe
from vae_ldm.recipe.stages import EXPORTS
from vae_ldm.run.folder import RunFolder, Stage
from vae_ldm.run.places import placed
from vae_ldm.run.state import check_finished, check_trained
from vae_ldm.terminal import StepReport, new_console, quieten_libraries


@dataclass
class Session:
    """What every stage needs. Pictures are read when first asked for."""

    recipe: Recipe
    run: RunFolder
    console: Console = field(default_factory=new_console)
    processes: Processes = field(default_factory=Processes.launched)
    profiles: bool = False
    """A few steps of each stage leave a trace of where their time goes."""

    def __post_init__(self) -> None:
        prepare_cpu()
        quieten_training()
        if not self.processes.is_first:
            self.console = Console(quiet=True)
            logging.getLogger("vae_ldm").setLevel(logging.ERROR)

    @classmethod
    def of(cls, recipe: Recipe, *, profiles: bool = False) -> "Session":
        """A session in the folder that the recipe names, seen from the current one."""
        return cls(placed(recipe), RunFolder(placed(recipe).run_folder), profiles=profiles)

    @classmethod
    def opened(cls, run_dir: Path) -> "Session":
        """A session on an existing run folder. Raises VaeLdmError where the folder is no run."""
        run = RunFolder(run_dir)
        return cls(read_run_recipe(run), run)

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
        self.processes.first(lambda: found.append(read_pictures(self.recipe, self.run, self.console)))
        # The first process has put them into the run folder, where the others find them.
        return found[0] if found else read_pictures(self.recipe, self.run, self.console)

    def require_finished(self, stage: Stage) -> None:
        """Raise VaeLdmError where the stage is not finished."""
        check_finished(self.run.path, [stage])

    def require_trained(self) -> None:
        """Raise VaeLdmError where one of the stages that train is not finished."""
        check_trained(self.run.path, self.recipe)

    def say_where(self) -> None:
        """Print where everything of the run lies."""
        run = self.run
        places: dict[str, Path] = {name: run.path / name for name in EXPORTS}
        places |= {"sample grid": run.samples / "samples.png", "report": run.report}
        for what, path in places.items():
            if path.exists():
                self.say(f"{what + ':':13}{path}")

    def progress(self, what: str) -> StepReport:
        """A bar on a terminal, nothing elsewhere: `with session.progress("reading") as report: report(done, total)`."""
        return StepReport(what, self.console)


def quieten_training() -> None:
    """Keep Lightning's advice about settings that are ours, not the user's, off the screen too."""
    quieten_libraries()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # of a run folder that was moved
    warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
    for what in ("does not have a deterministic implementation", "defaults to a non-deterministic algorithm"):
        warnings.filterwarnings("ignore", message=f".*{what}")  # see build_trainer
