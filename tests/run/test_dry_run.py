"""What `train --dry-run` says of the pictures."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import MakeRecipe
from vae_ldm.errors import VaeLdmError
from vae_ldm.run.stages import train_run


def test_pictures_that_cannot_be_used_are_named(
    make_recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos" / "tin"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_text("not a picture")
    for name in "bcd":
        Image.new("RGB", (32, 32)).save(folder / f"{name}.png")
    data = {"type": "image_folder", "path": str(tmp_path / "photos"), "image_size": 16}
    train_run(make_recipe(data=data, diffusion=None), dry_run=True)
    said = "".join(capsys.readouterr())
    assert "data: of the first 4, 1 cannot be used: tin/a.jpg: not a picture, or of a format" in said


@pytest.mark.parametrize(
    ("launcher", "recipe", "line"),
    [
        ("no", "32-true", None),
        ("bf16", None, None),
        ("bf16", "32-true", "means bf16-mixed, the recipe says precision: 32-true; leave one out"),
        ("fp16", None, "use bf16, or no with diffusion.trainer.precision: 16-mixed"),
    ],
)
def test_a_precision_that_the_launcher_contradicts_is_refused(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, launcher: str, recipe: str | None, line: str | None
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    asked = make_recipe(diffusion=None, autoencoder__trainer__precision=recipe)
    with nullcontext() if line is None else pytest.raises(VaeLdmError, match=line):
        train_run(asked, dry_run=True)


def test_fp16_on_a_cpu_is_refused_before_anything_is_trained(make_recipe: MakeRecipe) -> None:
    asked = make_recipe(diffusion__trainer__precision="16-mixed")
    with pytest.raises(VaeLdmError, match=r"16-mixed takes a GPU; on a CPU use bf16-mixed or 32-true"):
        train_run(asked, dry_run=True)


def test_a_launcher_that_has_started_one_process_only_is_spoken_of(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run(make_recipe(diffusion=None), dry_run=True)
    assert "process" not in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    train_run(make_recipe(diffusion=None), dry_run=True)
    assert "1 process; on a machine without GPUs accelerate launch starts several only with" in capsys.readouterr().err
