"""Every command of the README works as it stands there, the training shortened."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vae_ldm.cli import app
from vae_ldm.lesson.story import tell

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"^```bash\n(.+?)^```", README, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^(vae-ldm .+)$", SHELL, re.MULTILINE)
SHORT = [
    "data.image_size=16",
    "autoencoder.trainer.max_steps=2",
    "autoencoder.trainer.batch_size=2",
    "diffusion.trainer.max_steps=2",
    "diffusion.trainer.checkpoint_every_n_steps=1",
    "diffusion.trainer.batch_size=2",
    "evaluation.num_samples=4",
    "evaluation.num_inference_steps=2",
]

QUICK = {
    "evaluate": ["--num-samples", "8"],
    "claim": ["--num-variations", "1"],
    "archive report": ["--num-photos", "4"],
    "augment ../photos": ["--per-class", "2", "--max-tries", "4", "--denoising-steps", "2"],
    "augment prove": ["--shots", "2", "--seeds", "2", "--steps", "2"],
}
"""Further settings of commands that would take long."""


def test_it_opens_with_the_two_commands():
    first, second = re.findall(r"^```bash\n(python3 -m venv .+)\n```$", README, re.MULTILINE)  # with a copy button each
    assert "pip install -c constraints.txt . && " in first
    assert first.endswith(".venv/bin/vae-ldm train recipes/claims-32.yaml")
    assert second.endswith(".venv/bin/python -m pytest")
    assert README.index(first) < README.index(second) < README.index("## ")


def test_every_verb_it_uses_is_tested_here():
    assert len(COMMANDS) == 25, COMMANDS


@pytest.fixture
def photos(tmp_path):
    """A folder of photos, one folder a class, as the README describes it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3)):  # a desk takes 19 photos for a rate of 5 %
        for label in ("dress", "hat"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                _save(folder / f"{number:04d}.jpg", rng)
    for name in ("here/my-photo.jpg", "here/my-other-photo.jpg", "new-photos/1.jpg", "new-photos/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        _save(tmp_path / name, rng)


def _save(file, rng):
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(file)


def test_what_stands_for_photos_of_the_users_own_is_said_where_it_is_used_first():
    for name in set(re.findall(r"[\w./-]*photo[\w-]*\.jpg|\.\./[\w./-]+", "\n".join(COMMANDS))):
        section = next(part for part in README.split("\n## ") if name in part)
        assert re.search(rf"`{re.escape(name)}` stands for ", section.split("```", 2)[2]), name


@pytest.mark.slow
@pytest.mark.usefixtures("photos", "hub", "anna", "quick_probe")
def test_its_commands_work(tmp_path, monkeypatch, tiny_backbone):
    """In the README's order, in one folder, beside a folder of photos and with a Hub of our own."""
    monkeypatch.setitem(tell.__kwdefaults__, "num_steps", 100)
    here = tmp_path / "here"
    (here / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(here)
    runner = CliRunner()
    for command in _in_order():
        arguments = shlex.split(command)[1:]
        if arguments[0] == "train" and "--dry-run" not in arguments:
            arguments += SHORT
            if "claims" in arguments[1]:
                arguments += ["data.num_train=26", "data.num_validation=13"]
        elif arguments[0] == "train":
            arguments += SHORT[:1]
        elif arguments[0] == "desk":
            arguments += ["--backbone", tiny_backbone]
        arguments += QUICK.get(" ".join(arguments[:2]), QUICK.get(arguments[0], []))
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, (command, result.output)

    names: dict = {}
    for code in re.findall(r"```python\n(.+?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    assert names["image"].size == (16, 16)
    assert (len(names["variations"]), len(names["frames"])) == (4, 8)
    assert names["latents"].shape == (1, 8, 4, 4)


def _in_order() -> list[str]:
    """Training the default comes first, as in the README's first line."""
    default = "vae-ldm train recipes/claims-32.yaml"
    return [default, *(command for command in COMMANDS if command != default)]
