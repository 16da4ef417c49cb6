"""Processes that are at work at once: children of one that has done the imports, which take seconds."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

_PRELOADED = "tests.support.preloaded"


def fork(function: Callable[..., object], *arguments: object) -> Any:
    """A process that calls `function`, started; it has the environment and the current folder that this one has now.

    It is a process like any other: with an id, an exit code, and an end by kill -9 that stops it wherever it is.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    process = context.Process(target=_call, args=(dict(os.environ), function, arguments))
    process.start()
    return process


def _call(environment: dict[str, str], function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.environ.clear()  # the server's, of the moment when the first test asked for a process
    os.environ.update(environment)
    function(*arguments)
