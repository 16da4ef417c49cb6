"""A run of several sources, from the recipe to the report, stopped and resumed, and on two processes."""

import csv
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import MakeRecipe, nano_networks_in_place, nano_run, recipe_settings
from tests.processes import two_processes
from tests.run.conftest import ForkedCommand, assert_same_run, finish, wait_for
from tests.support.shapes import shapes
from tests.support.stopping import Stop, stop_at_batch
from vae_ldm.assembly import build_sources
from vae_ldm.data.mixture import open_mixture
from vae_ldm.errors import DataError, RecipeError
from vae_ldm.hub.model_card import CardFacts, model_card
from vae_ldm.opening import open_run, read_metrics, settings_of
from vae_ldm.recipe import Recipe
from vae_ldm.run import stages
from vae_ldm.run.evaluate import evaluate_run
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.session import Session
from vae_ldm.run.stages import train_run

SIZES_IN_WORDS = "24 x 24, 16 high x 32 wide and 16 x 16".replace("x", "\N{MULTIPLICATION SIGN}")


def _write(folder: Path, count: int, size: tuple[int, int], *, grey: bool = False) -> None:
    """Photos in class folders."""
    pictures, labels = shapes(count, seed=count, size=size)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / f"kind{label % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0] if grey else picture).save(place / f"{number}.png")


def _data(photos: Path, **keys: Any) -> dict[str, Any]:
    """A mixture of three small sources of different sizes, weights 3, 1 and 1."""
    sources = [
        {"type": "image_folder", "path": str(photos / "a"), "image_size": 24, "weight": 3.0},
        {"type": "image_folder", "path": str(photos / "b"), "image_size": [16, 32], "horizontal_flip": True},
        {"type": "rendered_claims", "num_train": 8, "num_validation": 4, "color_jitter": 0.2},
    ]
    return {"type": "mixture", "image_size": 16, "random_resized_crop": True, "sources": sources} | keys


def _of_several_sizes(photos: Path) -> dict[str, Any]:
    """An autoencoder of all three."""
    return {"diffusion": None, "data": _data(photos), "autoencoder__crop_size": 8}


def _of_one_size(photos: Path) -> dict[str, Any]:
    """The same at one size, with a UNet."""
    data = _data(photos, random_resized_crop=False)
    for source in data["sources"]:
        source.pop("image_size", None)
    return {"data": data}


def _write_photos(folder: Path) -> Path:
    _write(folder / "a", 24, (24, 24), grey=True)
    _write(folder / "b", 14, (20, 40))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return _write_photos(tmp_path / "photos")


@pytest.fixture
def several_sizes(make_recipe: MakeRecipe, photos: Path) -> Any:
    """`several_sizes(name="x")`: the recipe, under overrides."""

    def make(**overrides: Any) -> Recipe:
        return make_recipe(**_of_several_sizes(photos) | overrides)

    return make


@pytest.fixture
def one_size(make_recipe: MakeRecipe, photos: Path) -> Any:
    def make(**overrides: Any) -> Recipe:
        return make_recipe(**_of_one_size(photos) | overrides)

    return make


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], RunFolder]]:
    """By the stage that is compared: the overrides of a recipe, and a run of it that came to its end."""
    photos = _write_photos(tmp_path_factory.mktemp("mixture") / "photos")
    settings = {"autoencoder": _of_several_sizes(photos), "diffusion": _of_one_size(photos)}
    return {stage: (own, nano_run(tmp_path_factory.mktemp(stage), **own)) for stage, own in settings.items()}


def test_from_the_recipe_to_the_report(several_sizes: Any, photos: Path) -> None:
    """Every picture is measured, at its own size, and the page says so."""
    recipe = several_sizes()
    train_run(recipe)
    run = RunFolder(recipe.run_folder)
    evaluate_run(run.path)
    data = read_metrics(run.path)["data"]
    pictures = Session.opened(run.path).pictures
    assert data["image_sizes"] == [[24, 24], [16, 32], [16, 16]]
    assert (data["channels"], data["train"]) == (3, len(pictures.train))
    rows = data["sources"]
    assert [(row["type"], row["share"], row["image_size"]) for row in rows] == [
        ("image_folder", 0.6, [24, 24]),
        ("image_folder", 0.2, [16, 32]),
        ("rendered_claims", 0.2, [16, 16]),
    ]
    assert tuple(row["train"] for row in rows) == pictures.train.source_counts
    measured = {one["name"]: one for one in read_metrics(run.path)["measurements"]}
    assert measured["psnr"]["num_images"] == len(pictures.validation) == sum(row["validation"] for row in rows)
    mean = sum(row["psnr"] * row["validation"] for row in rows) / len(pictures.validation)
    assert measured["psnr"]["value"] == pytest.approx(mean, rel=1e-5)
    assert str(photos) not in run.metrics.read_text()
    page = run.report.read_text()
    assert '<a href="#sources">Sources</a>' in page
    assert "Every picture is measured at its own size" in page
    assert f"{SIZES_IN_WORDS} pixels" in page
    assert {path.name for path in run.samples.iterdir()} == {"reconstructions.png", "worst_reconstructions.png"}
    card = model_card(CardFacts("acme/mix", recipe.model_dump(mode="json"), read_metrics(run.path)))
    assert f"{SIZES_IN_WORDS} pixels" in card


def test_what_a_run_leaves_is_opened_as_a_whole(one_size: Any, photos: Path) -> None:
    recipe = one_size()
    train_run(recipe)
    run = open_run(recipe.run_folder)
    assert run.learned.source_counts == run.pictures.train.source_counts
    assert np.array_equal(np.asarray(run.learned.images), np.asarray(run.pictures.train.images))
    assert run.learned.class_names[:2] == ["kind0", "kind1"]
    assert settings_of(recipe.run_folder).image_size == (16, 16)
    assert settings_of(recipe.run_folder).photos is None
    assert (run.paths.pipeline / "model_index.json").is_file()
    shutil.rmtree(photos / "a")  # what was decoded from it serves
    gone = open_run(recipe.run_folder)
    assert np.array_equal(np.asarray(gone.pictures.train.images), np.asarray(run.learned.images))
    shutil.rmtree(run.paths.pictures)
    with pytest.raises(DataError, match=r"^data.sources\[0\]: .*photos/a"):
        _ = open_run(recipe.run_folder).pictures


@pytest.mark.parametrize("batch", [1, 7, 11])
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_run_stopped_in_training_ends_as_if_it_had_not_been(
    undisturbed: Any, make_recipe: MakeRecipe, stage: str, batch: int
) -> None:
    settings, whole = undisturbed[stage]
    recipe = make_recipe(**settings)
    stopped = RunFolder(recipe.run_folder)
    if stage == "diffusion":
        shutil.copytree(whole.path, stopped.path)
        stopped.restart(["diffusion"])
        shutil.rmtree(stopped.latents)
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=stage == "autoencoder", batch=batch)
        with pytest.raises(Stop):
            train_run(recipe)
    train_run(recipe)
    assert_same_run(whole, stopped, stage)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(
    undisturbed: Any, make_recipe: MakeRecipe, recipe_file: Callable[[Recipe], Path]
) -> None:
    settings, whole = undisturbed["autoencoder"]
    recipe = make_recipe(**settings)
    run, command = RunFolder(recipe.run_folder), ("train", recipe_file(recipe))
    process = ForkedCommand(*command)
    wait_for(lambda: any(run.checkpoints("autoencoder").glob("*.ckpt")), process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert run.finished("autoencoder") is None
    code, said = finish(ForkedCommand(*command))
    assert code == 0, said
    assert "going on from step" in said
    assert_same_run(whole, run, "autoencoder")


def test_weights_are_chosen_on_pictures_of_every_size(several_sizes: Any) -> None:
    recipe = several_sizes(
        autoencoder__ema={"type": "power"},
        autoencoder__optimizer={"type": "muon"},
        autoencoder__trainer__max_steps=12,
        autoencoder__trainer__val_every_n_steps=4,
    )
    train_run(recipe)
    run = RunFolder(recipe.run_folder)
    facts = run.finished("autoencoder")
    assert facts is not None
    choice, num_validation = facts["choice"], len(Session.opened(run.path).pictures.validation)
    assert choice["num_choosing"] + choice["num_judging"] == num_validation
    assert choice["metric"] == "val/psnr"
    assert len(choice["candidates"]) > 2
    assert not (run.path / "autoencoder" / "averages").exists()


def test_adding_a_source_decodes_only_that_one(several_sizes: Any, photos: Path) -> None:
    recipe = several_sizes()
    session = Session.of(recipe)
    first = session.pictures
    folder = session.run.pictures
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert len(before) == 6
    _write(photos / "c", 8, (16, 16))
    more = {"type": "image_folder", "path": str(photos / "c")}
    data = _data(photos)
    added = Session.of(several_sizes(data=data | {"sources": [more, *data["sources"]]}))
    assert added.pictures.train.source_counts[1:] == first.train.source_counts
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert len(after) == 8
    assert before.items() <= after.items()
    assert added.pictures.key != first.key
    fewer = Session.of(several_sizes(data=data | {"sources": data["sources"][:2]}))
    assert len(fewer.pictures.train) < len(first.train)
    assert len(list(folder.rglob("*.npy"))) == 4
    plain = Session.of(several_sizes(data=more))
    assert plain.pictures.train.source_counts is None
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "train.npy", "validation.npy"]
    again = Session.of(recipe)
    assert np.array_equal(again.pictures.train.labels, first.train.labels)
    found = open_mixture(folder)
    assert found is not None
    assert found.key == first.key


def test_a_dry_run_tells_of_each_source(
    several_sizes: Any, one_size: Any, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a" / "kind0" / "broken.png").write_text("no picture")
    data = _data(photos, max_unreadable_share=0.5)
    train_run(several_sizes(data=data), dry_run=True)
    said = capsys.readouterr().err
    assert "data.sources[0] (image_folder, 60 % of what is drawn): " in said
    assert "1 left out; pictures 24 high, 24 wide, grey" in said
    assert "data.sources[2] (rendered_claims, 20 % of what is drawn): 8 training and 4 validation pictures" in said
    assert "then: evaluation on all validation pictures, and the report" in said
    with pytest.raises(DataError, match=r"raise data\.max_unreadable_share"):
        train_run(several_sizes(), dry_run=True)
    train_run(one_size(data__max_unreadable_share=0.5), dry_run=True)
    assert "diffusion: " in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named_with_its_source(several_sizes: Any, photos: Path) -> None:
    shutil.rmtree(photos / "b")
    for dry_run in (True, False):
        with pytest.raises(DataError, match=r"^data\.sources\[1\]: .*photos/b"):
            train_run(several_sizes(), dry_run=dry_run)


def test_sources_may_not_change_under_way(several_sizes: Any, photos: Path) -> None:
    train_run(several_sizes())
    data = _data(photos)
    data["sources"][1]["weight"] = 2.0
    with pytest.raises(RecipeError, match=r"with another recipe \(data.sources\[1\].weight: 1.0 -> 2.0\)"):
        train_run(several_sizes(data=data))


def test_a_source_keeps_its_own_settings(several_sizes: Any) -> None:
    first, second, third = build_sources(several_sizes())
    assert [one.settings.image_size for one in (first, second, third)] == [(24, 24), (16, 32), (16, 16)]
    assert [one.share for one in (first, second, third)] == pytest.approx([0.6, 0.2, 0.2])


# --- two processes ----------------------------------------------------------------------------------------------------


def train_shared(settings: dict[str, Any]) -> list[list[float]]:
    """In each of two processes: the curve of the autoencoder of a run."""
    with nano_networks_in_place(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "run_evaluation_stage", lambda session, autoencoder: None)
        recipe = Recipe.model_validate(settings)
        train_run(recipe)
    with RunFolder(recipe.run_folder).log("autoencoder").open() as stream:
        return [[float(value or "nan") for value in row.values()] for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with two_processes() as processes:
        yield processes


def test_on_two_processes_a_run_goes_on_as_it_would_have(two: Any, photos: Path, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"diffusion": None, "data": _data(photos), "autoencoder__crop_size": 8}
    settings = json.loads(json.dumps(recipe_settings(tmp_path, **overrides)))
    undisturbed, _ = two(train_shared, settings=settings | {"name": "undisturbed"})
    assert len(undisturbed) > 3
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "nano")
    run = RunFolder(tmp_path / "nano")
    for checkpoint in run.checkpoints("autoencoder").glob("*.ckpt"):
        if checkpoint.name != "step=4.ckpt":
            checkpoint.unlink()
    state = json.loads(run.state.read_text())
    assert state.pop("autoencoder")["num_images"] == 6 * 2 * 4 * 2
    run.state.unlink()
    resumed, _ = two(train_shared, settings=settings)
    assert np.array_equal(np.array(resumed), np.array(undisturbed), equal_nan=True)
