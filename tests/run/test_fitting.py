"""How training ends when it does not end by itself."""

import os
import signal
from typing import Any

import pytest

from vae_ldm.errors import StoppedError
from vae_ldm.run.stages import train_run
from vae_ldm.training.lit_autoencoder import LitAutoencoder


@pytest.mark.parametrize("asked", [True, False])
def test_a_step_that_fails_because_its_helpers_were_stopped_too_is_a_stop(make_recipe, monkeypatch, asked):
    """A time limit's SIGTERM reaches the compiler of a compiled step as well, or a process that loads pictures."""

    def fail(*_: Any) -> None:
        if asked:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("g++ was killed")

    monkeypatch.setattr(LitAutoencoder, "training_step", fail)
    error, line = (
        (StoppedError, r"^stopped by SIGTERM in mid-step; repeat the command to go on$")
        if asked
        else (RuntimeError, r"g\+\+ was killed")
    )
    with pytest.raises(error, match=line):
        train_run(make_recipe(diffusion=None))


def test_a_stop_while_a_library_catches_every_exception_is_a_stop(make_recipe, monkeypatch):
    def stopped(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("vae_ldm.run.loggers._build", stopped)
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        train_run(make_recipe(diffusion=None, loggers=({"type": "tensorboard"},)))
