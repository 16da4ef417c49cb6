"""What `train --dry-run` says of the pictures."""

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


@pytest.mark.parametrize("launcher", ["bf16", "no"])
def test_a_precision_that_the_launcher_contradicts_is_refused(
    make_recipe: MakeRecipe, monkeypatch, launcher: str
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    recipe = make_recipe(diffusion=None)  # its precision is 32-true
    if launcher == "no":
        train_run(recipe, dry_run=True)
        return
    with pytest.raises(VaeLdmError, match="means bf16-mixed, the recipe says precision: 32-true; leave one out"):
        train_run(recipe, dry_run=True)
