"""`vae-ldm train`: every stage that the recipe names and that is not finished yet, in order."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from safetensors import SafetensorError

from vae_ldm.assembly import build_sources, check_precision
from vae_ldm.errors import DataError, RunError, StoppedError, VaeLdmError
from vae_ldm.hardware import num_free_cores
from vae_ldm.processes import processes_in_words
from vae_ldm.recipe import Recipe
from vae_ldm.recipe.stages import TRAINED, stages_of
from vae_ldm.run.autoencoder_stage import run_autoencoder_stage
from vae_ldm.run.choosing import check_average_lengths, makes_a_choice, validation_halves
from vae_ldm.run.diffusion_stage import check_prompts, run_diffusion_stage
from vae_ldm.run.distillation_stage import run_distillation_stage
from vae_ldm.run.evaluate import check_features, run_evaluation_stage
from vae_ldm.run.folder import RunFolder, Stage
from vae_ldm.run.loggers import check_loggers
from vae_ldm.run.push import check_push, push_when_asked, pusher_on_the_way
from vae_ldm.run.session import Session
from vae_ldm.text import counted


def train_run(recipe: Recipe, *, dry_run: bool = False, restart: Sequence[Stage] = (), profile: bool = False) -> None:
    """Run the recipe to its end, from wherever it was stopped, and say where everything is.

    Raises VaeLdmError for what the user can mend and RunError for what went wrong on the way.
    """
    check_loggers(recipe)
    for stage in TRAINED:
        part = getattr(recipe, stage.name)
        if part is not None and getattr(part, "train", "all") != "nothing":
            assert stage.network is not None
            check_precision(part.trainer, stage.network)
    check_average_lengths(recipe)
    session = Session.of(recipe, profiles=profile)
    if said := processes_in_words(session.processes.count):
        session.say(said)
    if dry_run:
        from vae_ldm.run.dry_run import describe_run

        describe_run(session, restart=restart)
        return
    with (
        _saying_how_to_go_on(session.run, recipe, restart) as ending,
        ending_on_sigterm(session.processes.count),
        session.processes.joined(),
        ExitStack() as until_the_end,
    ):
        session.recipe = session.processes.first(lambda: _take(session, until_the_end, restart))
        ending.restarted = bool(restart)
        _check_enough_pictures(session)
        check_prompts(session)
        if session.processes.is_first:
            check_push(session)
            check_features(session)
        try:
            autoencoder = run_autoencoder_stage(session)
            run_diffusion_stage(session, autoencoder, pusher_on_the_way)
            run_distillation_stage(session, autoencoder)
            # Drawing, measuring and pushing is one process's work; the others are done.
            if session.processes.is_first:
                run_evaluation_stage(session, autoencoder)
                push_when_asked(session)
        except SafetensorError as error:  # its name for a full disk, which is no OSError
            raise RunError(f"{session.run.path}: weights cannot be written: {error}") from error
    session.say_where()


@dataclass
class _Ending:
    """What a stop has to know of the command that it ends."""

    restarted: bool = False
    """What --restart names is deleted: once more, the command would delete what it has saved since."""


@contextmanager
def _saying_how_to_go_on(run: RunFolder, recipe: Recipe, restart: Sequence[Stage]) -> Iterator[_Ending]:
    """The line of a stop says what is saved, and where the command goes on when it is repeated."""
    ending = _Ending()
    try:
        yield ending
    except (StoppedError, KeyboardInterrupt) as error:
        said = str(error) or "stopped"
        if restart and not ending.restarted:
            raise type(error)(f"{said}; nothing is trained yet, so repeat the command as it is") from None
        flags = f" without {' '.join(f'--restart {stage}' for stage in restart)}" if restart else ""
        with suppress(VaeLdmError, OSError):  # a state.json that is damaged
            said = f"{said}; {_how_to_go_on(run, recipe, f'repeat the command{flags}')}"
        raise type(error)(said) from None


def _how_to_go_on(run: RunFolder, recipe: Recipe, repeat: str) -> str:
    for stage in stages_of(recipe):
        if run.finished(stage.name) is not None:
            continue
        step = run.saved_step(stage.name)
        if step is not None:
            return f"{repeat} to go on from step {step} of the stage {stage.name}"
        begin = "begin this stage anew" if stage.network is None else "begin this stage at step 0"
        return f"nothing of the stage {stage.name} is saved yet, so {repeat} to {begin}"
    return f"all stages are finished; {repeat} to do the rest"


def _check_enough_pictures(session: Session) -> None:
    """Raise DataError where a process would have none to validate on."""
    count, recipe = session.processes.count, session.recipe
    sections = [getattr(recipe, stage.name) for stage in TRAINED]
    trainers = [section.trainer for section in sections if section is not None]
    found = min(
        len(session.pictures.train),
        len(session.pictures.validation),
        *(trainer.num_val_images for trainer in trainers),
    )
    if found < count:
        raise DataError(
            f"{counted(found, 'picture')} (or num_val_images) cannot be shared by {count} processes; start fewer"
        )
    for stage in TRAINED:
        section = getattr(recipe, stage.name)
        if section is not None and makes_a_choice(section.trainer, section.ema):
            validation_halves(len(session.pictures.validation), count, stage.name)


@contextmanager
def ending_on_sigterm(num_processes: int) -> Iterator[None]:
    """Raise StoppedError at SIGTERM, wherever the run is: all it writes appears whole or not at all.

    While a stage trains, RunCheckpoint has the signal, and ends it after the step.
    """

    def stop(*_: object) -> None:
        sender = ", which the launcher sends as well when another process has gone" if num_processes > 1 else ""
        raise StoppedError(f"stopped by SIGTERM{sender}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _take(session: Session, until_the_end: ExitStack, restart: Sequence[Stage]) -> Recipe:
    """The recipe as the run is to follow it."""
    if not session.run.path.exists():
        build_sources(session.recipe)  # raises before a wrong path has left an empty run behind
    until_the_end.enter_context(session.run.locked())
    recipe = session.run.as_begun(session.recipe, restart=restart)
    session.run.adopt(recipe, restart=restart)
    if restart:
        session.say(f"{restart[0]}: begun afresh; whatever stops this run, leave --restart out to go on with it")
    _choose_threads(session)
    return recipe


def _choose_threads(session: Session) -> None:
    """As many threads as cores are free when a run begins, and the same number whenever it goes on."""
    if session.processes.count > 1 or session.device.type != "cpu":
        return  # the launcher has chosen
    every_core = torch.get_num_threads()
    is_users_choice = "OMP_NUM_THREADS" in os.environ
    # A run of before this was kept has used every core.
    proposed = every_core if is_users_choice or session.run.has_begun else min(every_core, num_free_cores())
    kept = session.run.keep_num_threads(proposed)
    if is_users_choice and kept != every_core:
        session.say(
            f"this run began on {counted(kept, 'thread')} and goes on with the {every_core} of OMP_NUM_THREADS: the "
            "last digits of its weights will not be those of an undisturbed run"
        )
        return
    torch.set_num_threads(kept)
    if kept < every_core:
        session.say(f"training on {counted(kept, 'thread')}: other work takes the other cores")
