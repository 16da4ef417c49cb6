import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vae_ldm.errors import RecipeError
from vae_ldm.recipe import find_recipe, first_comment, packaged, packaged_recipes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of packaged recipes in place of the real one, and an empty working directory."""
    recipes = tmp_path / "package" / "recipes"
    (recipes / "damage").mkdir(parents=True)
    (recipes / "claims-32.yaml").write_text("# vae-ldm train claims-32\n#\n# 5 minutes.\nname: a\n# not this\n")
    (recipes / "damage" / "cans-64.yaml").write_text("name: b\n")
    (recipes / "schema.json").write_text("{}")
    monkeypatch.setattr(packaged, "_FOLDERS", (tmp_path / "absent", recipes))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return recipes


def test_recipes_are_named_by_their_path(folder):
    assert packaged_recipes() == {
        "claims-32": folder / "claims-32.yaml",
        "damage/cans-64": folder / "damage" / "cans-64.yaml",
    }


@pytest.mark.parametrize("name", ["claims-32", "claims-32.yaml", "claims-32.yml"])
def test_a_packaged_recipe_is_found_by_name(folder, name):
    assert find_recipe(name) == folder / "claims-32.yaml"
    assert find_recipe("damage/cans-64") == folder / "damage" / "cans-64.yaml"


def test_a_file_goes_before_a_packaged_recipe(folder):
    Path("claims-32.yaml").write_text("name: mine\n")
    assert find_recipe("claims-32.yaml") == Path("claims-32.yaml")
    assert find_recipe("claims-32") == folder / "claims-32.yaml"


def test_what_is_not_found_lists_what_there_is(folder):
    with pytest.raises(RecipeError) as caught:
        find_recipe("recipes/claim-32.yaml")
    assert str(caught.value) == (
        "recipes/claim-32.yaml: no such file, and no packaged recipe of this name; did you mean claims-32?; "
        "there are claims-32, damage/cans-64"
    )


def test_no_recipes_at_all(monkeypatch):
    monkeypatch.setattr(packaged, "_FOLDERS", ())
    assert packaged_recipes() == {}
    with pytest.raises(RecipeError, match="; there are none"):
        find_recipe("x")


def test_the_first_comment(folder):
    assert first_comment(folder / "claims-32.yaml") == ["vae-ldm train claims-32", "", "5 minutes."]
    assert first_comment(folder / "damage" / "cans-64.yaml") == []


def test_the_checkouts_recipes_are_the_packaged_ones():
    assert set(packaged_recipes().values()) == set((ROOT / "recipes").rglob("*.yaml"))


def test_every_room_is_listed_for_the_wheel():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "vae_ldm").rglob("*.py")}
    assert set(setuptools["packages"]) == rooms | {"vae_ldm.recipes"}


@pytest.mark.slow
def test_a_wheel_holds_the_recipes_and_all_that_is_not_python(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("vae_ldm", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").touch()
    (source / "recipes" / "below").mkdir()
    (source / "recipes" / "below" / "example.yaml").write_text("# An example.\nname: example\n")
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    shutil.unpack_archive(wheel, installed, format="zip")

    expected = {path.relative_to(source) for path in (source / "vae_ldm").rglob("*") if path.is_file()}
    expected |= {Path("vae_ldm") / path.relative_to(source) for path in (source / "recipes").rglob("*.yaml")}
    assert {path.relative_to(installed) for path in (installed / "vae_ldm").rglob("*") if path.is_file()} == expected

    listing = [sys.executable, "-m", "vae_ldm", "recipe", "list"]
    listed = subprocess.run(listing, cwd=installed, check=True, capture_output=True, text=True).stdout
    assert "below/example\n    An example.\n" in listed
