"""The wheel as it is published: built, installed where no checkout is, it opens the starter without a network."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "recipes", "vae_ldm")
OPEN = """
import numpy as np
import vae_ldm
from vae_ldm import starter

autoencoder = vae_ldm.load_autoencoder("starter")
latents = autoencoder.encode(np.zeros((64, 96, 3), np.uint8))
(image,) = autoencoder.decode(latents)
print(vae_ldm.__file__, tuple(latents.shape), image.size, starter.starter_settings().recipe)
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env=surroundings | environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what it is built from, so that the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in BUILT_FROM:
        (folder / "source" / name).symlink_to(ROOT / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    run(sys.executable, "-c", build, folder / "dist", cwd=folder / "source")
    (found,) = (folder / "dist").glob("vae_ldm-*.whl")
    return found


def test_it_holds_all_files_of_the_starter_and_its_notice_as_a_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    here = ROOT / "vae_ldm" / "models" / "starter"
    assert {name for name in names if name.startswith("vae_ldm/models/starter/")} == {
        f"vae_ldm/models/starter/{file.name}" for file in here.iterdir()
    }
    assert any(name.endswith(".dist-info/licenses/vae_ldm/models/starter/NOTICE") for name in names)
    assert wheel.stat().st_size < 8_000_000


@pytest.mark.slow
def test_the_starter_opens_from_it_without_a_network(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows the packages that are installed already, and none of ours."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "others").mkdir()
    for folder in (Path(path) for path in sys.path if path.endswith("site-packages")):
        for package in folder.iterdir():  # no .pth file among them, so that an editable install of ours is not found
            taken = (
                package.name.startswith(("vae_ldm", "__editable__")) or (tmp_path / "others" / package.name).exists()
            )
            if package.suffix != ".pth" and not taken:
                (tmp_path / "others" / package.name).symlink_to(package)
    (site / "others.pth").write_text(f"{tmp_path / 'others'}\n")
    (tmp_path / "here").mkdir()
    python = tmp_path / "venv" / "bin" / "python"
    said = run(python, "-W", "ignore", "-c", OPEN, cwd=tmp_path / "here", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    file, rest = said.splitlines()[-1].split(" ", 1)
    assert Path(file).is_relative_to(site), "it must not be the checkout"
    assert rest == "(1, 16, 8, 12) (96, 64) starter-f8c16"
