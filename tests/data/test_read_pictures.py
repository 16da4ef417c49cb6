"""A run has its pictures wherever one stands, and also where its photos are gone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import recipe_settings
from vae_ldm.assembly import decode_pictures
from vae_ldm.errors import DataError
from vae_ldm.recipe import Recipe
from vae_ldm.run.places import placed


def _recipe(path: str, **data: Any) -> Recipe:
    data = {"type": "image_folder", "path": path, "image_size": 16} | data
    return Recipe.model_validate(recipe_settings(Path("runs"), data=data))


def _paint(folder: Path, brightness: int) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), brightness).save(folder / name)


def test_a_relative_path_means_the_same_in_any_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _paint(tmp_path / "one" / "photos", 1)
    _paint(tmp_path / "two" / "photos", 2)
    monkeypatch.chdir(tmp_path / "one")
    recipe = placed(_recipe("photos"))
    monkeypatch.chdir(tmp_path / "two")
    splits = decode_pictures(recipe, tmp_path / "pictures", say=pytest.fail)
    assert np.unique(splits.train.images).tolist() == [1]
    assert placed(recipe) == recipe


@pytest.mark.parametrize("path", ["someone/photos", "photos"])
def test_a_name_on_the_hub_stays(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = _recipe(path, type="hub_dataset")
    assert placed(recipe).data == recipe.data
    (tmp_path / path).mkdir(parents=True)
    assert placed(recipe).data.path == str(tmp_path / path)


@pytest.mark.parametrize("mount_point", [False, True])
def test_pictures_serve_where_their_photos_are_gone(tmp_path: Path, mount_point: bool) -> None:
    photos, cache = tmp_path / "photos", tmp_path / "run" / "pictures"
    _paint(photos, 7)
    recipe, said = _recipe(str(photos)), []
    with pytest.raises(DataError, match="no such folder"):
        decode_pictures(_recipe(str(tmp_path / "others")), cache, say=said.append)
    before = decode_pictures(recipe, cache, say=said.append)
    shutil.rmtree(photos)
    if mount_point:
        photos.mkdir()
    after = decode_pictures(recipe, cache, say=said.append)
    assert after.key == before.key
    assert np.array_equal(after.train.images, before.train.images)
    (line,) = said
    assert line.endswith(f"going on with the pictures in {cache}, which were decoded from it")
    with pytest.raises(DataError, match=r"no such folder|no photos in"):  # they were decoded in another way
        decode_pictures(_recipe(str(photos), resize="pad"), cache, say=said.append)
