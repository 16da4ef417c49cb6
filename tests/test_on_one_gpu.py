"""benchmarks/on_one_gpu.sh: what it packs, what it refuses, and each part for two steps on the CPU."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.run.start_points import save_autoencoder

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "on_one_gpu.sh"


@pytest.fixture(scope="module")
def modules():
    """pack_for_gpu and on_one_gpu, which are scripts."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import on_one_gpu
        import pack_for_gpu

        yield SimpleNamespace(pack=pack_for_gpu, gpu=on_one_gpu)
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def photos(modules, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every pack with a few photos of noise, larger than any part takes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for pack in modules.pack.PACKS:
        side = 40 if pack.name == "damage_solar" else 280
        for split, count in (("train", 6), ("validation", 4)):
            for label in ("good", "bad"):
                (folder / pack.name / split / label).mkdir(parents=True)
                for number in range(count):
                    small = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
                    small.resize((side + 20, side)).save(
                        folder / pack.name / split / label / f"{number}.jpg", quality=98
                    )
    names = [f"{label}/{number}.jpg" for label in ("good", "bad") for number in range(6)]
    rows = "".join(json.dumps({"file_name": name, "text": "A1"}) + "\n" for name in names)
    (folder / "doc_labels" / "train" / "metadata.jsonl").write_text(rows)
    return folder


def arguments(folder: Path, photos: Path, **settings: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{"folder": folder, "photos": photos, "parts": [], "starter": None, "most_mb": 50, "no_wheels": True}
        | settings
    )


@pytest.fixture(scope="module")
def packed(modules, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three parts, and an autoencoder of the starter's shape."""
    folder = tmp_path_factory.mktemp("packed")
    save_autoencoder(folder / "starter", scaling_factor=1.0, latent_channels=16)
    modules.pack.pack(arguments(folder / "pack", photos, starter=folder / "starter"))
    return folder / "pack"


def test_photos_have_the_short_side_that_the_recipes_take(modules, packed, tmp_path):
    assert sorted(path.stem for path in (packed / "photos").iterdir()) == [pack.name for pack in modules.pack.PACKS]
    unpacked = modules.pack.unpack_photos(packed, tmp_path, "a")
    sizes = {}
    for pack in modules.pack.PACKS:
        found = sorted((unpacked / pack.name).rglob("*.jpg"))
        assert len(found) == 20
        with Image.open(found[0]) as photo:
            sizes[pack.name] = min(photo.size)
    assert sizes["product_clothing"] == 128
    assert sizes["product_clothing256"] == 256
    assert sizes["damage_solar"] == 40
    assert sizes["doc_receipts_de"] == 280
    assert (unpacked / "doc_labels" / "train" / "metadata.jsonl").read_text().startswith('{"file_name"')


def test_of_a_large_pack_some_photos_are_taken_evenly_with_their_captions(modules, photos):
    labels = photos / "doc_labels"
    chosen = modules.pack.photos_of(labels, most=4)
    assert [str(file.relative_to(labels)) for file in chosen[:4]] == [
        f"train/{name}.jpg" for name in ("bad/0", "bad/3", "good/0", "good/3")
    ]
    assert len(chosen) == 4 + 8
    ((table, rows),) = modules.pack.captions_of(labels, chosen)
    assert table == labels / "train" / "metadata.jsonl"
    assert [json.loads(row)["file_name"] for row in rows.splitlines()] == [
        "good/0.jpg",
        "good/3.jpg",
        "bad/0.jpg",
        "bad/3.jpg",
    ]


def test_a_part_alone_takes_its_own_packs_only(modules, photos, tmp_path):
    modules.pack.pack(arguments(tmp_path / "pack", photos, parts=["b"]))
    assert [path.name for path in (tmp_path / "pack" / "photos").iterdir()] == ["product_clothing256.zip"]
    with pytest.raises(modules.pack.PackError, match=r"damage_cans\.zip: is not there; run .*on_one_gpu\.sh pack a"):
        modules.pack.unpack_photos(tmp_path / "pack", tmp_path / "photos", "a")


def test_quality_falls_until_the_folder_is_as_small_as_asked(modules, photos, packed, tmp_path, capsys):
    most = 0.75 * (packed / "photos" / "product_clothing256.zip").stat().st_size / 1e6
    modules.pack.pack(arguments(tmp_path / "pack", photos, parts=["b"], most_mb=most))
    file = tmp_path / "pack" / "photos" / "product_clothing256.zip"
    assert file.stat().st_size <= most * 1e6
    said = capsys.readouterr().out
    assert "MB for parts b; 20 files at JPEG quality" in said
    assert int(said.rsplit(" ", 1)[1]) < 95
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist()[0] == "train/bad/0.jpg"


def test_what_cannot_be_packed_is_one_line_and_the_old_folder_stays(modules, photos, tmp_path):
    folder = tmp_path / "pack"
    modules.pack.pack(arguments(folder, photos, parts=["b"]))
    for settings, said in (
        ({"photos": tmp_path / "absent"}, "holds no photos in train/ and validation/; say where the packs lie"),
        ({"most_mb": 0.01}, r"the photos of parts b do not fit into 0\.01 MB; pack fewer parts at once"),
        ({"starter": tmp_path}, r"has no config\.json; give the folder autoencoder/ of a run"),
    ):
        with pytest.raises(modules.pack.PackError, match=said):
            modules.pack.pack(arguments(folder, **{"photos": photos, "parts": ["b"]} | settings))
    assert (folder / "photos" / "product_clothing256.zip").is_file()


def test_only_wheels_that_this_python_lacks_are_installed(modules, tmp_path):
    (tmp_path / "wheels").mkdir()
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    names = [
        "numpy-1.0.0-py3-none-any.whl",
        "numpy-999.0.0-py3-none-any.whl",
        "no_such_package-1.0-py3-none-any.whl",
        f"no_such_core-1.0-{tag}-{tag}-manylinux2014_x86_64.whl",
        "no_such_core-1.0-cp39-cp39-manylinux2014_x86_64.whl",
        "no_such_old-1.0-py2.py3-none-any.whl",
    ]
    for name in names:
        (tmp_path / "wheels" / name).touch()
    assert {wheel.name for wheel in modules.pack.missing(tmp_path)} == {names[1], names[2], names[3], names[5]}


def test_every_wheel_has_a_pinned_version(modules):
    pins = (BENCHMARKS.parent / "constraints.txt").read_text()
    for name in (*modules.pack.WHEELS, *modules.pack.WHEELS_TO_JUDGE):
        assert f"\n{name}==" in pins


def test_the_packs_are_those_of_the_recipes(modules):
    """What a recipe reads is packed for its part."""
    found = set()
    for recipe in ("recipes/starter-f8c16.yaml", "benchmarks/starter-held-out.yaml"):
        data = modules.gpu.read_recipe(BENCHMARKS.parent / recipe).data
        found |= {Path(source.path).name for source in data.sources if source.type == "image_folder"}
    assert {pack.name for pack in modules.pack.PACKS if "a" in pack.parts} == found


@pytest.fixture
def part(modules, packed, tmp_path: Path) -> Any:
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    return modules.gpu.Part(packed, tmp_path / "out", tmp_path / "work", time.monotonic() + 500, dry_run=True)


@pytest.mark.slow
def test_part_a_leaves_both_starters_and_their_figures(modules, part):
    modules.gpu.starter(part)
    assert {path.name for path in part.out.iterdir()} == {
        "a.md", "held-out.safetensors", "held-out.config.json", "starter.safetensors", "starter.config.json",
    }  # fmt: skip
    assert json.loads((part.out / "starter.config.json").read_text())["latent_channels"] == 16
    assert load_file(part.out / "starter.safetensors")
    lines = (part.out / "a.md").read_text().splitlines()
    assert lines[0].startswith("CPU, torch ")
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| held-out", "| starter"]
    assert "over_linear" in lines[2]


@pytest.mark.slow
def test_part_b_leaves_grids_and_figures(modules, part):
    modules.gpu.product_photos(part)
    names = {path.name for path in part.out.iterdir()}
    assert {"b.md", "b.metrics.json", "b.samples.png", "b.reconstructions.png", "b.vae.safetensors"} <= names
    assert len(names) <= 8
    assert all(path.stat().st_size < 2**24 for path in part.out.iterdir())
    measured = json.loads((part.out / "b.metrics.json").read_text())["measurements"]
    of_samples = {row["num_images"] for row in measured if row["split"] == "generated"}
    assert of_samples == {4}  # too few for FD and KID
    assert "psnr" in {row["name"] for row in measured}
    assert (part.out / "b.md").read_text().startswith("CPU, torch ")


def test_part_c_keeps_what_train_speed_prints_and_tells_its_failure(modules, part, monkeypatch, tmp_path):
    stub = tmp_path / "benchmarks" / "train_speed.py"
    stub.parent.mkdir()
    monkeypatch.setattr(modules.gpu, "ROOT", tmp_path)
    stub.write_text("import sys\nprint(*sys.argv[1:])\n")
    modules.gpu.speed(part)
    kept = (part.out / "c.txt").read_text()
    assert kept.startswith("--stage unet --float32 ")
    stub.write_text("raise SystemExit(3)\n")
    with pytest.raises(SystemExit, match=r"error: train_speed\.py ended with 3"):
        modules.gpu.speed(part)


def test_weights_too_large_to_come_back_stay(modules, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modules.gpu, "MOST_BYTES", 10)
    assert not modules.gpu.half_weights(save_autoencoder(tmp_path / "vae"), tmp_path / "vae.safetensors")
    assert "MB of weights do not come back" in capsys.readouterr().out
    assert not (tmp_path / "vae.safetensors").exists()


def test_a_grid_too_large_to_come_back_is_made_smaller(modules, tmp_path, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "large.png")
    monkeypatch.setattr(modules.gpu, "MOST_BYTES", 6000)
    modules.gpu.give_picture(tmp_path / "large.png", tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size <= 6000


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *arguments], capture_output=True, text=True, check=False)


def test_the_shell_script_parses_and_explains_itself():
    assert shell("-n", str(SCRIPT)).returncode == 0
    helped, wrong = shell(str(SCRIPT), "--help"), shell(str(SCRIPT), "d")
    assert (helped.returncode, wrong.returncode) == (0, 2)
    for part in "abc":
        assert f"benchmarks/on_one_gpu.sh {part} [--dry-run]" in helped.stdout
    assert helped.stdout == wrong.stderr
