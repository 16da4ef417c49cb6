"""A run folder: where everything lies, which stages are finished, and that one process at a time writes to it."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryFile
from typing import Any

from vae_ldm.choices import Stage
from vae_ldm.errors import RecipeError, VaeLdmError
from vae_ldm.files import finish_swap, locked, remove, remove_abandoned, whole_folder
from vae_ldm.opening import RunPaths
from vae_ldm.recipe import Recipe, keys_free_under_way, read_recipe, recipe_differences, write_recipe
from vae_ldm.recipe.stages import EXPORTS, STAGES, from_stage_on, stage_named
from vae_ldm.recipe.stages import Stage as StageDeclared
from vae_ldm.run.places import placed
from vae_ldm.run.state import STATE, checkpoint_folder, read_state
from vae_ldm.training.callbacks import checkpoint_step
from vae_ldm.training.checkpoint_names import BEST_CHECKPOINT, run_checkpoints

_MACHINE = "machine"
"""The entry of state.json with what a resume has to keep of the machine."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class RunFolder(RunPaths):
    """Paths and state of the run folder at `path`, for those who train it."""

    def checkpoints(self, stage: Stage) -> Path:
        """The folder of a stage's checkpoints."""
        return checkpoint_folder(self.path, stage)

    def log(self, stage: Stage) -> Path:
        """The folder of a stage's curves."""
        return self.path / stage / "log.csv"

    def finished(self, stage: Stage) -> dict[str, Any] | None:
        """What `finish` was told about the stage; None while it is not finished."""
        return read_state(self.path).get(stage)

    def finish(self, stage: Stage, **facts: Any) -> None:
        """Mark the stage as finished, with facts about it (seconds, num_images, ...)."""
        STATE.write(self.state, {**read_state(self.path), stage: facts})

    def keep_num_threads(self, proposed: int) -> int:
        """How many threads the run trains on: what it began with, `proposed` where it begins now.

        Sums over another number of threads come out with other last digits, so a resume has to keep it.
        """
        state = read_state(self.path)
        kept = state.get(_MACHINE, {}).get("num_threads")
        if kept is None:
            kept = proposed
            STATE.write(self.state, {**state, _MACHINE: {"num_threads": kept}})
        return int(kept)

    @property
    def has_begun(self) -> bool:
        """Whether a stage is finished or under way."""
        return any(self._has_begun(stage.name) for stage in STAGES)

    def restart(self, stages: Sequence[Stage]) -> None:
        """Delete what the named stages and all that follow from them have written."""
        afresh = from_stage_on(stages)
        self._take_teacher_back(afresh)
        # Where nothing is kept, nothing needs to be read: that is the way out of a damaged state.json.
        state = read_state(self.path) if len(afresh) < len(STAGES) else {}
        for stage in afresh:
            state.pop(stage.name, None)
        STATE.write(self.state, state)
        for stage in afresh:
            for name in stage.writes:
                remove(self.path / name)

    def _take_teacher_back(self, afresh: Sequence[StageDeclared]) -> None:
        """Make `pipeline/` the teacher's again where its student is to be begun afresh, and it is not."""
        names = [stage.name for stage in afresh]
        begins = "distillation" in names and "diffusion" not in names
        if begins and self.teacher.is_dir() and self.exported() == "student":
            with whole_folder(self.pipeline) as part:
                copytree(self.teacher, part, dirs_exist_ok=True)

    def as_begun(self, recipe: Recipe, *, restart: Sequence[Stage] = ()) -> Recipe:
        """`recipe` with what it leaves open as the UNet of this run was begun, unless that is to be restarted."""
        if (
            stage_named("diffusion") in from_stage_on(restart)
            or not self._has_begun("diffusion")
            or not self.recipe.exists()
        ):
            return recipe
        return recipe.as_begun(read_recipe(self.recipe, as_trained=True))

    def saved_step(self, stage: Stage) -> int | None:
        """The step that an unfinished stage goes on from, of its newest checkpoint; None where it has none."""
        found = [*run_checkpoints(self.checkpoints(stage)), *self.checkpoints(stage).glob(BEST_CHECKPOINT)]
        return checkpoint_step(found[0]) if found else None

    def _has_begun(self, stage: Stage) -> bool:
        return self.finished(stage) is not None or any(self.checkpoints(stage).glob("*.ckpt"))

    def adopt(self, recipe: Recipe, *, restart: Sequence[Stage] = ()) -> None:
        """Make `recipe` the run's recipe, after deleting what the stages to restart have written.

        Raises RecipeError, and deletes nothing, where it differs from the recipe that a stage to be kept, finished or
        under way, was begun with.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.check_adoptable(recipe, restart=restart)
        if restart:
            self.restart(restart)
        write_recipe(recipe, self.recipe)

    def check_adoptable(self, recipe: Recipe, *, restart: Sequence[Stage] = ()) -> None:
        """Raise RecipeError where `adopt` would."""
        if self.recipe.exists():
            for stage in STAGES:
                if stage not in from_stage_on(restart):
                    self._check_unchanged(stage.name, recipe)

    def _check_unchanged(self, stage: Stage, recipe: Recipe) -> None:
        if not self._has_begun(stage):
            return
        finished = self.finished(stage) is not None
        changes, free = [], keys_free_under_way()
        for section in stage_named(stage).follows_from:
            before = placed(read_recipe(self.recipe, as_trained=True), kept=True)
            for change in recipe_differences(before, placed(recipe), section):
                key = change.split(":", 1)[0]
                if _is_of_a_later_stage(stage, key):
                    continue
                if finished or not key.startswith(f"{stage_named(stage).section}.") or key not in free:
                    changes.append(change)
        if changes:
            raise RecipeError(
                f"{self.path}: the stage {stage} {'is finished' if finished else 'has begun'} with another recipe "
                f"({'; '.join(changes)}); give the run a new name, or start this stage afresh with --restart {stage}"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder; RunError where another process holds it. The lock dies with the process.

        Raises VaeLdmError where the folder cannot be made or written to.
        """
        with self._refused_if_not_writable():
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "lock").touch()
        with locked(self.path / "lock", f"{self.path}: another process is running here"):
            for folder in (self.path, *(path for path in self.path.rglob("*") if path.is_dir())):
                remove_abandoned(folder)
            for name in (*EXPORTS, self.teacher.name):
                finish_swap(self.path / name)
            yield

    def check_writable(self) -> None:
        """Raise VaeLdmError where `locked` would; nothing is left behind."""
        with self._refused_if_not_writable():
            place = next(path for path in (self.path, *self.path.parents) if path.exists())
            with TemporaryFile(dir=place):
                pass

    @contextmanager
    def _refused_if_not_writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise
            raise VaeLdmError(
                f"{self.path}: the run folder cannot be written ({error.strerror}); set output_dir to another folder"
            ) from error


def _is_of_a_later_stage(stage: Stage, key: str) -> bool:
    """Whether a dotted key of the recipe is within the settings of a stage that comes after this one."""
    later = from_stage_on([stage])[1:]
    return any(f"{key}.".startswith(f"{each.section}.") for each in later if each.within)
