"""Whole runs for a process that sees a GPU, and what they leave."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.conftest import nano_networks_in_place, recipe_settings
from tests.support.stopping import Stop, stop_at_batch
from vae_ldm.recipe import Recipe
from vae_ldm.run.stages import train_run


def stopped_and_not(*, folder: str, precision: str | None) -> dict[str, Any]:
    """The largest difference in each weights file between a run and one that was stopped in both trainings."""
    keys = ("autoencoder__trainer__precision", "diffusion__trainer__precision")
    whole, stopped = (
        Recipe.model_validate(recipe_settings(Path(folder), name=name, **dict.fromkeys(keys, precision)))
        for name in ("whole", "stopped")
    )
    with nano_networks_in_place():
        train_run(whole)
        for manual, batch in ((True, 7), (False, 5)):
            with pytest.MonkeyPatch.context() as patch:
                stop_at_batch(patch, manual=manual, batch=batch)
                with pytest.raises(Stop):
                    train_run(stopped)
        train_run(stopped)
    one, other = Path(folder) / "whole", Path(folder) / "stopped"
    files = sorted(str(path.relative_to(one)) for path in one.rglob("*.safetensors"))
    return {"files": files, "differences": {name: _difference(one / name, other / name) for name in files}}


def _difference(one: Path, other: Path) -> float:
    left, right = load_file(one), load_file(other)
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)
