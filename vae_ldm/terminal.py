"""What a command shows while it works: messages, progress, and none of the libraries' own advice."""

import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from vae_ldm.text import duration, shown


class PlainConsole(Console):
    """A console whose text never steers the terminal: control characters of file names and the like are escaped."""

    def __init__(self, *, works_on: bool = False, **options: Any) -> None:
        """`works_on` is for a command that has more to do than to print; `options` are rich's."""
        super().__init__(**options)
        self._works_on = works_on

    def say(self, line: object) -> None:
        """Print one line of text as it is: no markup, and a line feed within it is escaped as well."""
        self.print(shown(str(line)), markup=False)

    def on_broken_pipe(self) -> None:
        """Where nobody reads any more, as after `| head`: end the command, or let it finish its work unheard."""
        if not self._works_on:
            super().on_broken_pipe()
        self.quiet = True
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, self.file.fileno())  # what is still buffered goes nowhere, at the end of the process too
        os.close(silent)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich makes text of a string, which is escaped before it is laid out, so that a table has room for it."""
        return super().render_str(_printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; colours, cursor movements and line feeds stay."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(_printable(segment.text), segment.style)


def _printable(text: str) -> str:
    """The text, its line feeds kept."""
    return text if text.isprintable() else "\n".join(map(shown, text.split("\n")))


def new_console(*, quiet: bool = False) -> PlainConsole:
    """Where messages go: the standard error, one line each however narrow the terminal is."""
    return PlainConsole(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)


def new_output(*, width: int | None = None, quiet: bool = False, works_on: bool = False) -> PlainConsole:
    """Where results go: the standard output; tables are `width` columns wide, by default as wide as the terminal.

    With `works_on` a command that writes pages or files as well does so even where nobody reads the output any more.
    """
    return PlainConsole(works_on=works_on, highlight=False, soft_wrap=True, width=width, quiet=quiet)


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
        """The time left at the speed over the last few lines; empty where nothing was done since."""
        began, before = self._told[0] if self._told else (now, done)
        if not before < done < total:
            return ""
        return f", about {duration(round((now - began) * (total - done) / (done - before)))} left"


def quieten_libraries() -> None:
    """Keep the advice of diffusers and transformers about settings that are ours, not the user's, off the screen."""
    import diffusers
    import transformers

    # It repeats what it cuts off, padding included; generate() says it in its own words.
    logging.getLogger("diffusers.pipelines.stable_diffusion").setLevel(logging.ERROR)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
