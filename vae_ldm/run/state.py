"""What a run folder says of its stages: which are finished, and which checkpoints there are. No torch in here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vae_ldm.choices import Stage
from vae_ldm.errors import VaeLdmError
from vae_ldm.paths import expanded
from vae_ldm.recipe import Recipe
from vae_ldm.recipe.stages import TRAINED, stages_of
from vae_ldm.stored_json import StoredKind, content_of
from vae_ldm.training.checkpoint_names import BEST_CHECKPOINT, run_checkpoints

STATE = StoredKind(
    newest=2,
    digest_from=2,
    unnumbered=1,
    cure="restore it, or train the run afresh with --restart autoencoder",
)
"""state.json: the facts about each finished stage, under its name, and about the machine that the run began on."""


class Checkpoint(NamedTuple):
    """A checkpoint of a run."""

    stage: Stage
    path: Path


def read_state(run: Path) -> dict[str, dict[str, Any]]:
    """What state.json of a run folder holds; nothing where there is none. Raises VaeLdmError where it is damaged."""
    file = run / "state.json"
    if not file.exists():
        return {}
    return STATE.typed(file, dict[str, dict[str, Any]], content_of(STATE.read(file)))


def check_finished(run: Path, stages: Iterable[Stage]) -> None:
    """Raise VaeLdmError where one of the stages of the run is not finished."""
    state = read_state(run)
    for stage in stages:
        if stage not in state:
            raise VaeLdmError(f"{run}: its stage {stage} is not finished; repeat the train command first")


def check_trained(run: Path, recipe: Recipe) -> None:
    """Raise VaeLdmError where a stage that trains, of those of the run's recipe, is not finished."""
    check_finished(run, [stage.name for stage in stages_of(recipe) if stage in TRAINED])


def checkpoint_folder(run: Path, stage: Stage) -> Path:
    """The folder of a stage's checkpoints."""
    return run / stage / "checkpoints"


def checkpoints(run: Path) -> list[Checkpoint]:
    """The run's checkpoints, the furthest stage first, and of a stage the newest first."""
    return [
        Checkpoint(stage.name, path)
        for stage in reversed(TRAINED)
        for path in run_checkpoints(checkpoint_folder(run, stage.name))
    ]


def find_checkpoint(run: Path, wanted: str, stages: Sequence[Stage] = ()) -> Checkpoint:
    """The checkpoint "best", of a step, or at a path; of several stages that have it, that of the furthest.

    With `stages` it is one of theirs, and of several that of the first of them.

    Raises VaeLdmError, which lists what there is, where there is no such checkpoint.
    """
    named, name = expanded(wanted).resolve(), wanted.lower().removesuffix(".ckpt").removeprefix("step=")
    there = []
    for stage in stages or [each.name for each in reversed(TRAINED)]:
        folder = checkpoint_folder(run, stage)
        if named.is_file() and named.parent == folder.resolve():
            return Checkpoint(stage, named)
        found = (*folder.glob(BEST_CHECKPOINT), *run_checkpoints(folder))
        names = {path.stem.removeprefix("step="): path for path in found}
        if name in names:
            return Checkpoint(stage, names[name])
        if names:
            there.append(f"{stage}: {', '.join(names)}")
    raise VaeLdmError(f"{run}: has no checkpoint {wanted}; there are {'; '.join(there) or 'none'}")


def is_last(checkpoint: str | None) -> bool:
    """Whether the newest weights are meant, and not a checkpoint of its own."""
    return checkpoint is None or checkpoint.lower() == "last"
