"""Runs in processes of their own, that die by kill -9 at a moment that a test names."""

import importlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest

from tests.conftest import _no_evaluation, nano_networks_in_place
from vae_ldm.recipe import Recipe
from vae_ldm.run.stages import train_run


class Moment(NamedTuple):
    """A call of a function, or of the method of a class, and whether the process dies after it or before."""

    module: str
    name: str
    after: bool
    call: int = 1


def end(process: Any, *, code: int = 0) -> None:
    process.join()
    assert process.exitcode == code


@contextmanager
def killed_at(moment: Moment | None) -> Iterator[None]:
    """This very process dies by kill -9 at the moment."""
    with pytest.MonkeyPatch.context() as patch:
        if moment is not None:
            *owners, name = moment.name.split(".")
            where: Any = importlib.import_module(moment.module)
            for owner in owners:
                where = getattr(where, owner)
            function, calls = getattr(where, name), 0

            def killing(*args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls < moment.call:
                    return function(*args, **kwargs)
                if moment.after:
                    function(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
                return None

            patch.setattr(where, name, killing)
        yield


def train(recipe: Recipe, evaluates: bool = False, moment: Moment | None = None) -> None:
    with nano_networks_in_place(), nullcontext() if evaluates else _no_evaluation(), killed_at(moment):
        train_run(recipe)
