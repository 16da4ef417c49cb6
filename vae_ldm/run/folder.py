"""A run folder: where everything lies, which stages are finished, and that one process at a time writes to it."""

import errno
import fcntl
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from vae_ldm.errors import RecipeError, RunError, VaeLdmError
from vae_ldm.recipe import Recipe, keys_free_under_way, read_recipe, recipe_differences, write_recipe
from vae_ldm.recipe.stages import STAGES, StageName, from_stage_on, stage_named
from vae_ldm.whole_file import naming, write_whole

Stage = StageName

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class RunFolder:
    """Paths and state of the run folder at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.pictures = path / "pictures"
        self.autoencoder = path / "autoencoder"
        self.latents = path / "latents"
        self.diffusion = path / "diffusion"
        self.pipeline = path / "pipeline"
        self.lora = path / "lora"
        self.samples = path / "samples"
        self.metrics = path / "metrics.json"
        self.report = path / "report.html"
        self.reference = path / "diffusion" / "reference.png"
        self._state = path / "state.json"

    def checkpoints(self, stage: Stage) -> Path:
        """Where a stage's checkpoints lie."""
        return self.path / stage / "checkpoints"

    def log(self, stage: Stage) -> Path:
        """Where a stage's curves lie."""
        return self.path / stage / "log.csv"

    def finished(self, stage: Stage) -> dict[str, Any] | None:
        """What `finish` was told about the stage; None while it is not finished."""
        return self._read_state().get(stage)

    def finish(self, stage: Stage, **facts: Any) -> None:
        """Mark the stage as finished, with facts about it (seconds, num_images, ...)."""
        write_json(self._state, {**self._read_state(), stage: facts})

    def restart(self, stages: Sequence[Stage]) -> None:
        """Delete what the named stages and all that follow from them have written."""
        afresh = from_stage_on(stages)
        state = self._read_state()
        for stage in afresh:
            state.pop(stage.name, None)
        write_json(self._state, state)
        for stage in afresh:
            for name in stage.writes:
                remove(self.path / name)

    def adopt(self, recipe: Recipe, *, restart: Sequence[Stage] = ()) -> None:
        """Make `recipe` the run's recipe, after deleting what the stages to restart have written.

        Raises RecipeError, and deletes nothing, where it differs from the recipe that a stage to be kept, finished or
        under way, was begun with.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        kept = [stage for stage in STAGES if stage not in from_stage_on(restart)]
        if self.recipe.exists():
            for stage in kept:
                self._check_unchanged(stage.name, recipe)
        if restart:
            self.restart(restart)
        write_recipe(recipe, self.recipe)

    def _check_unchanged(self, stage: Stage, recipe: Recipe) -> None:
        finished = self.finished(stage) is not None
        under_way = not finished and any(self.checkpoints(stage).glob("*.ckpt"))
        if not (finished or under_way):
            return
        changes, free = [], keys_free_under_way()
        for section in stage_named(stage).follows_from:
            for change in recipe_differences(read_recipe(self.recipe, as_trained=True), recipe, section):
                key = change.split(":", 1)[0]
                if finished or not key.startswith(f"{stage}.") or key not in free:
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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "lock").touch()
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise
            raise VaeLdmError(
                f"{self.path}: the run folder cannot be written ({error.strerror}); set output_dir to another folder"
            ) from error
        with (self.path / "lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = f" ({known})" if (known := file.read().strip()) else ""
                raise RunError(
                    f"{self.path}: another process is running here{holder}; wait for it, or stop it"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def _read_state(self) -> dict[str, Any]:
        return json.loads(self._state.read_text()) if self._state.exists() else {}


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as a whole or not at all."""
    write_whole(path, json.dumps(content, indent=1))


def write_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """Write the picture to `path`, a PNG with Pillow's `options`, as a whole or not at all."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    write_whole(path, stream.getvalue())


def remove(path: Path) -> None:
    """Delete a file or folder that may be absent."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def let_others_read(folder: Path) -> None:
    """Give every file below `folder` the mode of a new file: safetensors makes its own readable to their owner only."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(folder.stat().st_mode & 0o666)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well."""
    part = target.with_name(target.name + ".part")
    with naming(target, part):
        remove(part)
        part.mkdir(parents=True)
        yield part
        let_others_read(part)
        remove(target)
        part.rename(target)
