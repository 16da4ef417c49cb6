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
