"""What commit 3f0c8c3 has written is opened by today's code and means what it meant (tests/stored/README.md).

Answers are compared bit for bit where this machine and its libraries compute as those that made the files did.
Elsewhere sums are taken in another order: then floats have to be near, and a picture may be off by two levels of 255.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.hub.server import HubServer
from tests.stored import verbs
from tests.stored.verbs import PROMPTS, STAGES, run_verb

STORED = Path(__file__).parent / "stored" / "3f0c8c3"
EXPECTED = json.loads((STORED / "expected.json").read_text())
MODEL = Path("runs/photos")


@pytest.fixture(autouse=True)
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of all stored files is the current folder, and `tiny` means what it meant for them."""
    shutil.copytree(STORED, tmp_path / "stored")
    monkeypatch.chdir(tmp_path / "stored")
    with verbs.sizes_of_then():
        yield


@pytest.fixture(scope="module")
def exact(one_thread: None) -> bool:
    return verbs.arithmetic() == EXPECTED["arithmetic"]


def assert_same(found: Any, expected: Any, *, exact: bool, rel: float = 0.0) -> None:
    """The same structure and texts, and the same numbers: exactly, or within `rel` and what another machine rounds."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value, exact=exact, rel=rel)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, exact=exact, rel=rel)
    elif isinstance(expected, float):
        rel = rel if exact else max(rel, 1e-3)
        assert found == pytest.approx(expected, rel=rel, abs=rel)
    else:
        assert found == expected


def assert_same_picture(picture: Path, name: str, *, exact: bool) -> None:
    if exact:
        assert verbs.pixels_digest(picture) == EXPECTED["pictures"][name]
    pixels, kept = (np.asarray(Image.open(file)).astype(int) for file in (picture, STORED / "pictures" / f"{name}.png"))
    assert np.abs(pixels - kept).max() <= (0 if exact else 2)


def test_the_files_are_whole_and_small() -> None:
    """No file was changed by git's line endings or swallowed by a rule of .gitignore."""
    files = {file.relative_to(STORED).as_posix(): file.stat().st_size for file in STORED.rglob("*") if file.is_file()}
    assert len(files) == EXPECTED["num_files"]
    assert max(files.values()) < 300_000
    assert sum(files.values()) < 2_000_000
    assert not [name for name in files if b"\r\n" in (STORED / name).read_bytes() and name.endswith((".yaml", ".json"))]


# --- recipes and runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["claims", "photos", "lora"])
def test_a_recipe_and_the_one_that_the_run_keeps_are_in_order(name: str) -> None:
    for file in (f"recipes/{name}.yaml", f"runs/{name}/recipe.yaml"):
        assert "in order" in run_verb("recipe", "check", file)
    assert run_verb("recipe", "show", f"recipes/{name}.yaml") == run_verb("recipe", "show", f"runs/{name}/recipe.yaml")


@pytest.mark.parametrize("name", PROMPTS)
def test_a_finished_run_is_finished(name: str) -> None:
    before = {file: file.read_bytes() for file in Path("runs", name).rglob("*.safetensors")}
    run_verb("train", f"recipes/{name}.yaml")
    assert {file: file.read_bytes() for file in Path("runs", name).rglob("*.safetensors")} == before
    assert {stage: verbs.loss_curve(Path("runs", name), stage) for stage in STAGES} == EXPECTED["curves"][name]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_recipe_trains_as_it_did(name: str, exact: bool) -> None:
    """Also the one that names neither kl_weight nor timestep_sampling: it means the defaults of then."""
    shutil.rmtree(Path("runs", name))
    run_verb("train", f"recipes/{name}.yaml", "evaluation.num_samples=2")
    curves = {stage: verbs.loss_curve(Path("runs", name), stage) for stage in STAGES}
    if not exact:  # Adam turns gradients that are nothing but rounding into whole steps, so only the beginning is near
        curves, expected = (
            {stage: rows[:5] for stage, rows in both.items()} for both in (curves, EXPECTED["curves"][name])
        )
        assert_same(curves, expected, exact=False, rel=0.02)
        return
    assert curves == EXPECTED["curves"][name]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(exact: bool, tmp_path: Path) -> None:
    run_verb("train", "recipes/lora.yaml")
    curve = verbs.loss_curve(Path("runs/lora"), "diffusion")
    assert_same(curve, EXPECTED["curves"]["lora"]["diffusion"], exact=exact)
    assert_same_picture(verbs.drawn(Path("runs/lora"), "a tin", tmp_path / "out"), "lora", exact=exact)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_run_draws_and_encodes_as_it_did(name: str, exact: bool, tmp_path: Path) -> None:
    run = Path("runs", name)
    assert_same_picture(verbs.drawn(run, PROMPTS[name], tmp_path / "out"), name, exact=exact)
    assert_same(verbs.encoded(run, Path("new/usual tin.png")), EXPECTED["latents"][name], exact=exact)


def test_a_run_is_measured_again(exact: bool) -> None:
    before = json.loads(Path("runs/claims/metrics.json").read_text())
    run_verb("evaluate", "runs/claims")
    after = json.loads(Path("runs/claims/metrics.json").read_text())
    psnr = [
        next(one["value"] for one in metrics["measurements"] if one["name"] == "psnr") for metrics in (before, after)
    ]
    assert_same(psnr[1], psnr[0], exact=exact)
    assert Path("runs/claims/report.html").stat().st_size > 50_000


def test_a_checkpoint_is_exported(exact: bool, tmp_path: Path) -> None:
    run_verb("export", "runs/lora", "--checkpoint", 4, "--out", tmp_path / "exported")
    before, after = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (Path("base"), tmp_path / "exported")
    )
    assert before.keys() == after.keys()


# --- the Hub ----------------------------------------------------------------------------------------------------------


def test_what_was_pushed_is_pulled_and_trained_again(hub: HubServer, exact: bool, tmp_path: Path) -> None:
    hub.add("acme/claims", verbs.pushed_files(Path()))
    run_verb("pull", "acme/claims", "--out", tmp_path / "pulled")
    assert_same_picture(verbs.drawn(tmp_path / "pulled", PROMPTS["claims"], tmp_path / "out"), "claims", exact=exact)

    shutil.rmtree("runs/claims")
    run_verb("train", "hf://acme/claims", "evaluation.num_samples=2")
    curves = {stage: verbs.loss_curve(Path("runs/claims"), stage) for stage in STAGES}
    expected = EXPECTED["curves"]["claims"]
    if not exact:
        curves, expected = ({stage: rows[:5] for stage, rows in both.items()} for both in (curves, expected))
    assert_same(curves, expected, exact=exact, rel=0.0 if exact else 0.02)


def test_an_old_run_is_pushed(hub: HubServer, anna: str) -> None:
    run_verb("push", "runs/claims", "acme/claims", "--license", "mit")
    pushed = hub.repos["acme/claims"].at("main")
    assert pushed is not None
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert pushed.files[weights].content == Path("runs/claims/pipeline", weights).read_bytes()
    assert pushed.files["metrics.json"].content == Path("push/metrics.json").read_bytes()


# --- the desk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["index", "desk/index"])
def test_an_index_finds_what_it_found(index: str, exact: bool) -> None:
    found = verbs.found_by_index(Path(index), Path("new"), MODEL)
    # The backbone's batch norms may be folded into its convolutions, which rounds differently.
    assert_same(found, EXPECTED["found"][index], exact=exact, rel=1e-4 if index == "index" else 0.0)


def test_photos_are_added_to_an_index() -> None:
    run_verb("index", "add", "index", "photos/validation", "--model", MODEL)
    found = verbs.found_by_index(Path("index"), Path("photos/validation/tin"), MODEL)
    assert [hits[0][1] for hits in found.values()] == pytest.approx([1.0] * len(found), abs=1e-3)


@pytest.mark.parametrize(
    ("detector", "line"),
    [
        ("novelty", "vae-ldm novelty fit PHOTOS --out novelty --false-alarm-rate 0."),
        ("desk/novelty", "vae-ldm desk desk PHOTOS --model "),
    ],
)
def test_a_detector_is_refused_with_the_line_that_fits_it_anew(detector: str, line: str) -> None:
    said = verbs.refused("novelty", "score", "new", detector)
    assert said.startswith(f"error: {detector}: was fitted by an older vae_ldm, whose scores are no longer used; ")
    assert line in said


def test_a_detector_and_a_desk_are_made_anew_in_their_places(tmp_path: Path, tiny_backbone: str) -> None:
    said = verbs.refused("claim", "new/white.png", "--desk", "desk", "--model", MODEL)
    assert "fit it anew: vae-ldm desk desk PHOTOS --model " in said
    eye = ("--backbone", tiny_backbone)
    run_verb("desk", "desk", "photos/train", "--model", MODEL, "--features", "latents", *eye)
    claim = ("claim", "--desk", "desk", "--model", MODEL, "--num-variations", 1, "--out", tmp_path / "claim.html")
    assert "Not seen before" in run_verb(*claim, "new/white.png")
    assert (tmp_path / "claim.html").stat().st_size > 10_000
    run_verb("novelty", "fit", "photos/train", "--out", "novelty", *eye)
    run_verb("novelty", "score", "new", "novelty", "--out", tmp_path / "scores.csv")
    assert "white.png,novel," in (tmp_path / "scores.csv").read_text()


def test_an_archive_gives_back_what_it_gave_back(exact: bool, tmp_path: Path) -> None:
    found = verbs.extracted(Path("archive"), MODEL, tmp_path / "out")
    expected = EXPECTED["extracted"]
    assert found.keys() == expected.keys()
    for name, digest in expected.items():
        if exact or name.endswith(".webp"):  # no network is asked for those
            assert found[name] == digest


def test_an_archive_is_whole_listed_and_gone_on_with() -> None:
    assert "6 as latents" in run_verb("archive", "list", "archive")
    run_verb("archive", "verify", "archive", "photos/train", "--model", MODEL)
    before = {file.name: file.read_bytes() for file in Path("archive").glob("*.parquet")}
    run_verb("archive", "add", "archive", "photos/train", "--model", MODEL)
    assert {file.name: file.read_bytes() for file in Path("archive").glob("*.parquet")} == before
    run_verb("archive", "add", "archive", "new", "--model", MODEL)
    assert "28 photos" in run_verb("archive", "list", "archive")


def test_an_augmented_folder_is_finished_and_judged(tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in Path("augmented").rglob("*.png")}
    run_verb(*verbs.AUGMENT)
    assert {file: file.read_bytes() for file in Path("augmented").rglob("*.png")} == before
    prove = ("augment", "prove", "photos", "--synthetic", "augmented", "--out", tmp_path / "proof.html")
    run_verb(*prove, "--shots", 3, "--seeds", 2, "--steps", 2)
    assert (tmp_path / "proof.html").is_file()


def test_photos_are_morphed_walked_around_and_compared(tmp_path: Path) -> None:
    a, b, small = "new/usual tin.png", "new/usual parcel.png", ("--denoising-steps", 2, "--model", MODEL)
    run_verb("morph", a, b, *small, "--steps", 2, "--smooth", 1, "--out", tmp_path / "morph")
    run_verb("walk", a, *small, "--steps", 2, "--smooth", 1, "--out", tmp_path / "walk")
    run_verb("grid", a, *small, "--side", 2, "--out", tmp_path / "grid")
    run_verb("compare", "photos/train", MODEL, "--num-photos", 8, "--side", 16, "--out", tmp_path / "compared.html")
    assert (tmp_path / "morph" / "strip.png").is_file()
    assert (tmp_path / "walk" / "strip.png").is_file()
    assert any((tmp_path / "grid").iterdir())
    assert (tmp_path / "compared.html").is_file()
