"""How a command ends: signals and expected errors become one line and an exit code."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer

from vae_ldm.cli.wrong_values import in_own_words, no_longer
from vae_ldm.errors import GO_ON, NOTHING_KEPT, RecipeError, RunError, StoppedError, VaeLdmError, first_line
from vae_ldm.files import is_temporary
from vae_ldm.paths import expanded
from vae_ldm.text import shown

P = ParamSpec("P")
T = TypeVar("T")

_UsageError: Any = typer.BadParameter.__mro__[1]
"""click's UsageError: some versions of typer bring a click of their own, and this is the one that typer raises."""

FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Raises typer.Exit for the errors that a user may meet; anything else is our bug and keeps its traceback."""
    try:
        with _ended_by_signals():
            yield
    except _UsageError as error:
        if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":  # which shows the help
            raise
        if (words := in_own_words(error)) is not None:
            error.message = words
        message = no_longer(error) or error.format_message().rstrip(".")
        _tell(f"error: {message[:1].lower()}{message[1:]}")
        _tell(f"see {error.ctx.command_path} --help")
        raise typer.Exit(WRONG_INPUT) from None
    except (VaeLdmError, RunError, StoppedError, OSError, KeyboardInterrupt, ValueError) as error:
        if os.environ.get("VAE_LDM_TRACEBACK") == "1" or isinstance(error, BrokenPipeError) or _is_our_bug(error):
            raise
        rank = int(os.environ.get("RANK", "0"))  # of the processes that `accelerate launch` has started
        if isinstance(error, _TerminatedError):
            error = StoppedError(_said_of(error))
        if isinstance(error, KeyboardInterrupt):
            if rank == 0:
                _tell(_said_of(error))
            raise typer.Exit(INTERRUPTED) from None
        if isinstance(error, StoppedError):
            if rank == 0:
                _tell(str(error))
            raise typer.Exit(TERMINATED) from None
        if rank == 0 or not isinstance(error, RecipeError):  # the first one says what all find in the recipe
            for line in _message(error).split("\n"):
                _tell(f"error: {f'process {rank}: ' if rank else ''}{line}")
        raise typer.Exit(WRONG_INPUT if isinstance(error, ValueError) else FAILED) from None


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM has come, and ends the command the way that Ctrl-C does."""


def going_on(place: str | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Declare that the verb keeps finished work: after a stop, the same command goes on, and the message says so.

    `place` is the argument of the verb that names the folder of that work, unless it is kept elsewhere: in a cache, or
    in the database that the argument `store` names. Where the folder holds no work, the message says that.
    """

    def keeping(verb: Callable[P, T]) -> Callable[P, T]:
        @wraps(verb)
        def told(*arguments: P.args, **options: P.kwargs) -> T:
            try:
                return verb(*arguments, **options)
            except KeyboardInterrupt as error:
                elsewhere = place is None or options.get("store") is not None
                kept = elsewhere or _holds_work(expanded(str(options[str(place)])))
                raise type(error)(f"{_said_of(error)}; {GO_ON if kept else NOTHING_KEPT}") from None

        return told

    return keeping


def _holds_work(folder: Path) -> bool:
    """Whether any file lies in the folder but locks, and what was being written."""
    return any(path.is_file() and path.name != "lock" and not is_temporary(path) for path in folder.rglob("*"))


def _said_of(error: KeyboardInterrupt) -> str:
    return str(error) or ("stopped by SIGTERM" if isinstance(error, _TerminatedError) else "stopped")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM raises _TerminatedError. `train` handles the signal itself and ends after the step.

    SIGHUP, which comes when the terminal is closed, is passed on as SIGTERM, so that it ends a command the same way.
    """

    def end(*_: object) -> None:
        raise _TerminatedError

    def pass_on(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: end}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = pass_on
    # Whoever started this with another handler, as nohup does, has plans of their own.
    taken = [number for number in handlers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _tell(line: str) -> None:
    """Print one line on the standard error, where there still is one: its terminal may have been closed."""
    with suppress(OSError):
        typer.echo(shown(line), err=True)


def _is_our_bug(error: BaseException) -> bool:
    """Whether it is a ValueError that comes from no file of the user's: from none that is damaged or no text."""
    if not isinstance(error, ValueError) or isinstance(error, VaeLdmError | UnicodeError):
        return False
    return type(error).__name__ not in ("JSONDecodeError", "ArrowInvalid")  # of libraries that are not imported here


def _message(error: BaseException) -> str:
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of copytree: one for each file
        _, place, why = error.args[0][0]
        return f"{place}: {why.partition('] ')[2].partition(': ')[0] or why}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, VaeLdmError) or not isinstance(error, ValueError):
        return str(error) or type(error).__name__
    return f"a file cannot be read ({first_line(error)}); VAE_LDM_TRACEBACK=1 shows which"
