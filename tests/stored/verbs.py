"""What the stored files are opened with: the command line, in the networks' sizes of then, and what it answers.

`make.py` asks at commit 3f0c8c3 and keeps the answers as expected.json; tests/test_stored_files.py asks today's code.
Only the command line is used and what plain diffusers opens, so that no function of the package is in between.
"""

import csv
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vae_ldm.cli import app
from vae_ldm.models import autoencoder, unet

PROMPTS = {"claims": "a photo of good tin", "photos": "a photo of tin"}
"""Of the runs that are finished; `lora` was stopped under way."""
STAGES = ("autoencoder", "diffusion")


@contextmanager
def sizes_of_then() -> Iterator[None]:
    """The size `tiny` means the few weights that the stored runs were trained with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(autoencoder.AUTOENCODER_SIZES, "tiny", autoencoder.AutoencoderSize((4, 4, 4), 1, 4))
        patch.setitem(unet.UNET_SIZES, "tiny", unet.UNetSize((16,), 1, 8, (False,)))
        yield


def run_verb(*arguments: object) -> str:
    """What the command has printed for programs (stdout). AssertionError where it does not succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{arguments}: {result.output}\n{result.exception!r}"
    return result.stdout


def refused(*arguments: object) -> str:
    """The last line that a wrong command has said. AssertionError where its exit code is another than 2."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, f"{arguments}: {result.output}\n{result.exception!r}"
    return result.output.splitlines()[-1]


def arithmetic() -> dict[str, str]:
    """What answers follow from beside the code: a fingerprint of float32 on this machine, and versions of libraries."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 16, 16, 16, generator=generator)
    kernels = torch.randn(16, 16, 3, 3, generator=generator)
    found = torch.conv2d(images, kernels, padding=1).flatten(1)
    found = torch.softmax(found @ found.T / 1e4, dim=1) + torch.nn.functional.silu(found[:, :8])
    libraries = ("torch", "diffusers", "transformers", "peft", "pytorch-lightning", "numpy", "pillow")
    return {"float32": hashlib.sha256(found.numpy().tobytes()).hexdigest()} | {
        name: importlib.metadata.version(name) for name in libraries
    }


def pixels_digest(file: Path) -> str:
    """SHA-256 of a picture's size and pixels."""
    pixels = np.asarray(Image.open(file))
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def loss_curve(run: Path, stage: str) -> list[dict[str, float]]:
    """The numbers of a stage's log.csv, one row a step; how long a step took is left out."""
    with (run / stage / "log.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        {name: float(value) for name, value in row.items() if value and name not in ("seconds", "images_per_second")}
        for row in rows
    ]


def drawn(source: Path, prompt: str, out: Path) -> Path:
    """The picture of seed 0 that a run draws."""
    run_verb("generate", source, prompt, "-n", 1, "--steps", 3, "--out", out)
    return out / "000000.png"


def encoded(run: Path, photo: Path) -> list[float]:
    """The first eight latents of a photo, cut to 16x16."""
    import vae_ldm

    pixels = np.asarray(Image.open(photo).convert("RGB"))[:16, :16]
    return [float(value) for value in vae_ldm.load_autoencoder(run).encode(pixels).flatten()[:8]]


def found_by_index(index: Path, photos: Path, model: Path) -> dict[str, list[list[Any]]]:
    """The three photos nearest to each of `photos`, and their similarities."""
    answers = json.loads(run_verb("index", "query", index, photos, "-k", 3, "--json", "--model", model))
    found = {}
    for answer in answers["queries"]:
        found[answer["photo"]] = [[hit["id"], hit["similarity"]] for hit in answer["hits"]]
    return found


def extracted(archive: Path, model: Path, out: Path) -> dict[str, str]:
    """The digest of every photo that an archive gives back."""
    run_verb("archive", "extract", archive, "--out", out, "--model", model)
    return {file.relative_to(out).as_posix(): pixels_digest(file) for file in sorted(out.rglob("*.*"))}


def pushed_files(stored: Path) -> dict[str, bytes]:
    """The repository that push made of runs/claims: its pipeline, and what lies in push/."""
    files: dict[str, Any] = {}
    for folder in (stored / "runs" / "claims" / "pipeline", stored / "push"):
        files |= {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items()}


AUGMENT = (
    *("augment", "photos", "--model", "runs/photos", "--per-class", 6, "--out", "augmented"),
    *("--denoising-steps", 2),
)
"""The command that made the augmented folder, and finds it finished when it is repeated."""


def answers(out: Path) -> dict[str, Any]:
    """All that the stored files answer, asked in a copy of them that is the current folder; `out` is a new folder."""
    out.mkdir()
    model = Path("runs/photos")
    found: dict[str, Any] = {
        "arithmetic": arithmetic(),
        "pictures": {
            run: pixels_digest(drawn(Path("runs") / run, prompt, out / run)) for run, prompt in PROMPTS.items()
        },
        "latents": {run: encoded(Path("runs") / run, Path("new/usual tin.png")) for run in PROMPTS},
        "found": {folder: found_by_index(Path(folder), Path("new"), model) for folder in ("index", "desk/index")},
        "extracted": extracted(Path("archive"), model, out / "extracted"),
        "curves": {run: {stage: loss_curve(Path("runs") / run, stage) for stage in STAGES} for run in PROMPTS},
    }
    run_verb("train", "recipes/lora.yaml")
    found["curves"]["lora"] = {"diffusion": loss_curve(Path("runs/lora"), "diffusion")}
    found["pictures"]["lora"] = pixels_digest(drawn(Path("runs/lora"), "a tin", out / "lora"))
    return found
