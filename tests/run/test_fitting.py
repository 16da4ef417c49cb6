"""How training ends when it does not end by itself."""

import json
import os
import re
import signal
from typing import Any

import pytest
from PIL import Image

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
        (
            StoppedError,
            r"^stopped by SIGTERM before the first step was done; nothing of the stage autoencoder is saved yet, so re",
        )
        if asked
        else (RuntimeError, r"g\+\+ was killed")
    )
    with pytest.raises(error, match=line):
        train_run(make_recipe(diffusion=None))


_SAVED_NOTHING = "nothing of the stage autoencoder is saved yet, so repeat the command to begin this stage at step 0"
_SAVED_2 = "repeat the command to go on from step 2 of the stage autoencoder"


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (0, f"stopped before the first step was done; {_SAVED_NOTHING}"),
        (1, f"stopped after step 1; 1 step is lost; {_SAVED_NOTHING}"),
        (2, f"stopped after step 2, which is saved; {_SAVED_2}"),
        (3, f"stopped after step 3; 1 step since the checkpoint of step 2 is lost; {_SAVED_2}"),
    ],
)
def test_ctrl_c_says_what_is_kept_and_what_is_lost(make_recipe, monkeypatch, step, line):
    train = LitAutoencoder.training_step

    def interrupted(module: LitAutoencoder, *batch: Any) -> Any:
        if module.global_step == step:
            raise KeyboardInterrupt
        return train(module, *batch)

    monkeypatch.setattr(LitAutoencoder, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match=f"^{line}$"):
        train_run(make_recipe(diffusion=None))


def test_a_stop_while_a_library_catches_every_exception_is_a_stop(make_recipe, monkeypatch):
    def stopped(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("vae_ldm.run.loggers._build", stopped)
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        train_run(make_recipe(diffusion=None, loggers=({"type": "tensorboard"},)))


def test_captions_that_are_cut_are_counted(make_recipe, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    captions = ["one two three", "one two", "one two three four five", "one", "six seven eight nine ten"] * 3
    with (folder / "metadata.jsonl").open("w") as file:
        for number, caption in enumerate(captions):
            Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(folder / f"{number}.png")
            file.write(json.dumps({"file_name": f"{number}.png", "text": caption}) + "\n")
    data = {"type": "image_folder", "path": str(folder), "image_size": 16, "validation_fraction": 0.2}
    stage = {
        "conditioning": "caption",
        "text_encoder": {"type": "trained", "hidden_size": 32, "num_layers": 1, "max_length": 5},
        "trainer": {"max_steps": 1, "batch_size": 2, "num_val_images": 2},
    }
    train_run(make_recipe(data=data, diffusion=stage))
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"diffusion: [1-6] of \d+ captions are cut off at 5 tokens; the longest has 7", said)
