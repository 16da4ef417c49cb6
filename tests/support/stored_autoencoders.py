"""Weights of an autoencoder in a folder, changed, and the line with which they are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from vae_ldm.errors import WeightsError
from vae_ldm.models.autoencoder import load_autoencoder_kl

WEIGHTS = "diffusion_pytorch_model.safetensors"


def change(folder: Path, how: Callable[[dict[str, Tensor]], Any]) -> None:
    """Let `how` change the weights in place, and store them again."""
    weights = load_file(folder / WEIGHTS)
    how(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def refusal(source: Path) -> str:
    """The one line that refuses `source`, which it names first."""
    with pytest.raises(WeightsError) as caught:
        load_autoencoder_kl(str(source))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(source))
    return str(caught.value)
