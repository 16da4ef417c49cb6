"""What several test files need: one thread, networks of a few thousand weights, and one run trained to its end."""

import gc
import os
import subprocess

from tests.support.surroundings import EMPTY_FOLDER

# Before torch: stored loss curves and small networks want one thread, and the CPU. `CUDA_VISIBLE_DEVICES=0 pytest`
# tries all on a GPU; what is bit-exact or stored is that of a CPU and fails there.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from tests.hub.environment import HUB_PORT  # before the Hub's client  # noqa: I001

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from tests.hub.server import HubServer
from tests.support.shapes import shapes
from tests.support.tiny_backbone import save_backbone
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.models import autoencoder, unet
from vae_ldm.models.vision_features import EfficientNetLiteFeatures, load_efficientnet_lite
from vae_ldm.recipe import Recipe, write_recipe
from vae_ldm.run import stages
from vae_ldm.run.folder import RunFolder

NANO_AUTOENCODER = autoencoder.AutoencoderSize((16, 16, 32, 32, 32), 1, 8)
NANO_UNET = unet.UNetSize((16, 32, 32), 1, 16, (True, True, False))

MakeRecipe = Callable[..., Recipe]
Disk = Callable[[int], Path]
PictureMaker = Callable[..., tuple[np.ndarray, np.ndarray]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold a slow test come first: a long file at the end would keep one process busy and the other not."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays for good: half a million objects that no collection of garbage need look through.

    Each of them would, and a training of a few steps has several: it takes a fifth less time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def empty_current_folder() -> Iterator[None]:
    """Where a test stands there is nothing, `runs/` of README's first line least of all."""
    before = Path.cwd()
    os.chdir(EMPTY_FOLDER.name)
    yield
    left = sorted(path.name for path in Path(EMPTY_FOLDER.name).iterdir())
    os.chdir(before)
    assert left == [], "a test has written to the current folder"


@contextmanager
def nano_networks_in_place() -> Iterator[None]:
    """The size `tiny` means a few thousand weights, so that a checkpoint is small and a step takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(autoencoder.AUTOENCODER_SIZES, "tiny", NANO_AUTOENCODER)
        patch.setitem(unet.UNET_SIZES, "tiny", NANO_UNET)
        with probe_of_few_steps():
            yield


@contextmanager
def probe_of_few_steps() -> Iterator[None]:
    """The classifier that judges pictures learns for 100 steps in place of 1,000, which took half of an evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ProbeClassifier.fit.__func__.__kwdefaults__, "max_steps", 100)  # type: ignore[attr-defined]
        yield


@contextmanager
def _no_evaluation() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "run_evaluation_stage", lambda session, autoencoder: None)
        yield


@pytest.fixture
def nano_networks() -> Iterator[None]:
    """For a test."""
    with nano_networks_in_place():
        yield


@pytest.fixture
def quick_probe() -> Iterator[None]:
    """For a test of networks of their own sizes."""
    with probe_of_few_steps():
        yield


@pytest.fixture
def no_evaluation() -> Iterator[None]:
    """Runs end with the pipeline; evaluation has tests of its own."""
    with _no_evaluation():
        yield


NANO_TRAINER = {
    "max_steps": 6,
    "batch_size": 4,
    "accumulate_grad_batches": 2,
    "checkpoint_every_n_steps": 2,
    "val_every_n_steps": 2,
    "log_every_n_steps": 1,
    "num_val_images": 6,
    "precision": "32-true",
}
"""Six steps that use all that a stage may be asked for."""


def recipe_settings(output_dir: Path, **overrides: Any) -> dict[str, Any]:
    """A recipe that uses everything that resuming could forget; `overrides` are dotted with two underscores."""
    settings: dict[str, Any] = {
        "name": "nano",
        "seed": 3,
        "output_dir": str(output_dir),
        "data": {
            "type": "rendered_claims",
            "num_train": 24,
            "num_validation": 6,
            "image_size": 16,
            "horizontal_flip": True,
        },
        "autoencoder": {
            "ema": {"decay": 0.9},
            "loss": {"adversarial": {"start": 0.5, "base_channels": 8, "num_layers": 2}},
            "trainer": dict(NANO_TRAINER),
        },
        "diffusion": {
            "text_encoder": {"type": "trained", "hidden_size": 32, "num_layers": 1},
            "trainer": dict(NANO_TRAINER),
        },
        "evaluation": {"num_samples": 2, "num_inference_steps": 2},
    }
    for path, value in overrides.items():
        *sections, key = path.split("__")
        section = settings
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return settings


@pytest.fixture
def make_recipe(tmp_path: Path, nano_networks: None, no_evaluation: None) -> MakeRecipe:
    """`make_recipe(autoencoder__trainer__max_steps=4)`: the tiny recipe, with its run folder in tmp_path/nano."""

    def make(output_dir: Path = tmp_path, **overrides: Any) -> Recipe:
        return Recipe.model_validate(recipe_settings(output_dir, **overrides))

    return make


def nano_run(output_dir: Path, **overrides: Any) -> RunFolder:
    """The tiny recipe under `overrides`, run to its end outside any test's own fixtures."""
    with nano_networks_in_place(), _no_evaluation():
        recipe = Recipe.model_validate(recipe_settings(output_dir, **overrides))
        stages.train_run(recipe)
    return RunFolder(output_dir / recipe.name)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny recipe, run to its end once for all tests."""
    return nano_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def trained_run(trained_once: RunFolder, nano_networks: None, no_evaluation: None) -> RunFolder:
    """That run, among networks of its size. Copy it before changing anything in it."""
    return trained_once


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """`small_disk(100)`: a folder on a disk of 100 kilobytes; called again, the same disk with more room."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + (",remount" if folder.is_mount() else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only root may mount a small disk, and not everywhere")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again at once."""
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time.sleep", lambda seconds: None)


@pytest.fixture
def hub(no_waiting: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub on loopback, a cache of the test's own, and no token."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer(HUB_PORT) as server:
        yield server
    close_session()  # a connection that is kept alive would still speak to this server in the next test


@pytest.fixture
def anna(monkeypatch: pytest.MonkeyPatch) -> str:
    """Logged in as somebody who may write to anna/ and acme/."""
    monkeypatch.setenv("HF_TOKEN", "hf_anna")
    return "hf_anna"


@pytest.fixture(scope="session")
def features() -> EfficientNetLiteFeatures:
    """Loaded once."""
    return load_efficientnet_lite()


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a backbone that looks at photos in milliseconds, on 8 x 8 places."""
    return save_backbone(tmp_path_factory.mktemp("backbones") / "tiny", side=64)


@pytest.fixture(scope="session")
def make_pictures() -> PictureMaker:
    return shapes


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[[Recipe], Path]:
    def write(recipe: Recipe) -> Path:
        path = tmp_path / "recipe.yaml"
        write_recipe(recipe, path)
        return path

    return write


@pytest.fixture(autouse=True)
def no_seed_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's seed_everything leaves its seed in the environment, from which the order of training data follows."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
