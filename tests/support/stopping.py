"""Runs that are stopped on the way, in this process."""

import pytest
from pytorch_lightning import Callback

from vae_ldm.run import fitting


class Stop(Exception):  # noqa: N818
    """In place of kill -9, from which it differs in that Python still unwinds."""


class StopAt(Callback):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, *arguments: object) -> None:
        if arguments[3] == self.batch:
            raise Stop


def stop_once(patch: pytest.MonkeyPatch, where: object, name: str, *, after: bool) -> None:
    """The next call of a function stops the run, before or after its work."""
    function = getattr(where, name)

    def stopping(*args: object, **kwargs: object) -> object:
        if after:
            function(*args, **kwargs)
        raise Stop

    patch.setattr(where, name, stopping)


def stop_at_batch(patch: pytest.MonkeyPatch, *, manual: bool, batch: int) -> None:
    build_trainer = fitting.build_trainer

    def stopping(*args: object, **kwargs: object) -> object:
        if kwargs["manual_optimization"] == manual:
            kwargs["callbacks"] = [*kwargs["callbacks"], StopAt(batch)]  # type: ignore[misc]
        return build_trainer(*args, **kwargs)  # type: ignore[arg-type]

    patch.setattr(fitting, "build_trainer", stopping)
