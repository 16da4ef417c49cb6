"""benchmarks/pack_starter.py: a finished run becomes the starter's folder, or is refused in one line."""

import hashlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from tests.conftest import nano_run
from tests.support.tin_photos import save_photos
from vae_ldm import starter
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.recipe import read_recipe, write_recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NOTICE = "The photos\n\n## tins\n\nOurs.\n\n## boxes\n\nOurs too.\n"


@pytest.fixture(scope="module")
def packer():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import pack_starter

        yield pack_starter
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five photos to learn from and three held out in one set, three and one in the other."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, (name, count) in enumerate(
        {"tins/train/a": 5, "tins/validation/a": 3, "boxes/train/b": 3, "boxes/validation/b": 1}.items()
    ):
        save_photos(folder / name, count, seed=seed)
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    sources = [
        {"type": "image_folder", "path": str(photos / "tins")},
        {"type": "image_folder", "path": str(photos / "boxes"), "image_size": 16},
        {"type": "rendered_claims", "num_train": 4, "num_validation": 2},
    ]
    stage = {"crop_size": 16, "trainer": {"max_steps": 1, "batch_size": 2, "num_val_images": 2}}
    data = {"type": "mixture", "image_size": 32, "channels": 3, "sources": sources}
    made = nano_run(tmp_path_factory.mktemp("runs"), data=data, autoencoder=stage, diffusion=None)
    return made.path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "starter").mkdir()
    (tmp_path / "starter" / "NOTICE").write_text(NOTICE)
    (tmp_path / "starter" / "README.md").write_text("# A card\n")
    return tmp_path / "starter"


def test_a_run_is_packed_and_the_same_run_gives_the_same_bytes(packer, run, photos, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pack_starter.py", str(run), "--folder", str(folder)])
    packer.main()
    assert "8 photos learned, mean PSNR" in capsys.readouterr().out
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(files) == {"config.json", "diffusion_pytorch_model.safetensors", "NOTICE", "README.md"} | {
        "photos.digests", "starter.json",
    }  # fmt: skip
    assert files["NOTICE"].decode() == NOTICE
    assert str(run).encode() not in b"".join(files.values())
    packer.pack(run, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files

    monkeypatch.setattr(starter, "STARTER_FOLDER", folder)
    settings = starter.starter_settings()
    assert (settings.recipe, settings.image_size, settings.resize) == ("nano", (32, 32), "crop")
    assert settings.num_psnr_photos == 3  # those of the run's own size
    assert 5 < settings.psnr < 50
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in photos.rglob("*.png")}
    learned = {file for file, digest in digests.items() if starter.has_learned(digest)}
    assert learned == {file for name in ("tins", "boxes") for file in (photos / name / "train").rglob("*.png")}
    trained = AutoencoderKL.from_pretrained(run / "autoencoder")
    opened = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    assert weights_digest(opened) == weights_digest(trained.half().float())


def test_a_run_that_is_not_to_be_packed_is_refused_in_one_line(packer, run, folder, tmp_path, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name, value, said in (
        ("MOST_BYTES", 1000, r"its weights take [\d,]+ bytes in float16, more than 1,000"),
        ("LEAST_PSNR", 200.0, r"float16 changes the reconstruction of sources\[0\]/validation/a/000.png: it is .* dB"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(packer, name, value)
            with pytest.raises(VaeLdmError, match=said):
                packer.pack(run, folder)
    shutil.copytree(run, tmp_path / "run")
    recipe = read_recipe(run / "recipe.yaml", as_trained=True)
    gone = recipe.data.sources[0].model_copy(update={"path": str(tmp_path / "tins")})
    data = recipe.data.model_copy(update={"sources": (gone, *recipe.data.sources[1:])})
    write_recipe(recipe.model_copy(update={"data": data}), tmp_path / "run" / "recipe.yaml")
    with pytest.raises(DataError, match=r"tins/train/a/000.png: is gone, and the run has learned from it"):
        packer.pack(tmp_path / "run", folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    for notice, said in (
        (
            NOTICE.replace("## boxes", "boxes"),
            "NOTICE has no section ## boxes, and the run has learned from",
        ),
        (f"{NOTICE}\n## more\n", "NOTICE has a section ## more, and the run has learned nothing from it"),
    ):
        (folder / "NOTICE").write_text(notice)
        with pytest.raises(VaeLdmError, match=said):
            packer.pack(run, folder)
    (tmp_path / "run" / "state.json").unlink()
    with pytest.raises(VaeLdmError, match="its stage autoencoder is not finished"):
        packer.pack(tmp_path / "run", folder)
