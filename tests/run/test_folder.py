import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.support.stopping import Stop, stop_at_batch
from vae_ldm.cli import app
from vae_ldm.errors import DataError, RecipeError, VaeLdmError
from vae_ldm.files import write_json
from vae_ldm.recipe import packaged_recipes, read_recipe
from vae_ldm.run import stages
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.session import Session
from vae_ldm.run.stages import train_run


@pytest.fixture
def finished(trained_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the finished run, for the recipe of `make_recipe`."""
    shutil.copytree(trained_run.path, tmp_path / "nano")
    return RunFolder(tmp_path / "nano")


def times(run: RunFolder) -> dict[str, int]:
    """When each file was last written, without recipe and lock, which every command touches."""
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name not in ("recipe.yaml", "lock"))
    return {str(path.relative_to(run.path)): path.stat().st_mtime_ns for path in files}


def test_everything_lies_where_the_design_says(trained_run):
    names = {path.name for path in trained_run.path.iterdir()}
    assert names == {"recipe.yaml", "pictures", "autoencoder", "latents", "diffusion", "pipeline", "state.json", "lock"}
    assert (trained_run.autoencoder / "config.json").is_file()
    assert (trained_run.autoencoder / "reconstructions" / "step=000006.png").is_file()
    assert list(trained_run.path.rglob("*.part")) == []


def test_finished_stages_are_not_run_again(finished, make_recipe, capsys):
    before = times(finished)
    train_run(make_recipe())
    assert times(finished) == before
    said = capsys.readouterr().err
    assert f"pipeline:    {finished.pipeline}" in said
    assert "going on" not in said


@pytest.mark.parametrize(
    ("change", "stage", "key"),
    [
        ({"seed": 4}, "autoencoder", "seed: 3 -> 4"),
        ({"data__num_train": 25}, "autoencoder", "data.num_train: 24 -> 25"),
        ({"autoencoder__loss__kl_weight": 1.0}, "autoencoder", "autoencoder.loss.kl_weight"),
        ({"autoencoder__trainer__max_steps": 7}, "autoencoder", "autoencoder.trainer.max_steps: 6 -> 7"),
        ({"diffusion__dropout": 0.5}, "diffusion", "diffusion.dropout: 0.0 -> 0.5"),
        ({"diffusion__trainer__max_steps": 7}, "diffusion", "diffusion.trainer.max_steps: 6 -> 7"),
    ],
)
def test_another_recipe_for_a_finished_stage_is_refused(finished, make_recipe, change, stage, key):
    before, recipe = times(finished), finished.recipe.read_text()
    with pytest.raises(RecipeError) as caught:
        train_run(make_recipe(**change))
    message = str(caught.value)
    assert key in message
    assert f"--restart {stage}" in message
    assert "\n" not in message
    assert times(finished) == before
    assert finished.recipe.read_text() == recipe


@pytest.mark.parametrize("name", ["claims-32", "finetune-lora", "thermal-solar"])
def test_a_finished_run_of_format_1_takes_its_old_recipe_and_the_packaged_one_of_today(tmp_path, name):
    """recipe/format_1 holds recipes of commit 3f0c8c3, as they were written and as that version resolved them."""
    old = Path(__file__).parents[1] / "recipe" / "format_1"
    run = RunFolder(tmp_path / name)
    run.path.mkdir()
    shutil.copy(old / f"{name}.resolved.yaml", run.recipe)
    write_json(run.path / "state.json", {"autoencoder": {}, "diffusion": {}})
    for file in (old / f"{name}.yaml", packaged_recipes()[name]):
        run.adopt(read_recipe(file))
        shutil.copy(old / f"{name}.resolved.yaml", run.recipe)
    changed = read_recipe(old / f"{name}.yaml", ["seed=7"])
    with pytest.raises(RecipeError, match=r"is finished with another recipe \(seed: 0 -> 7\); give the run a new name"):
        run.adopt(changed)


def test_what_no_finished_stage_follows_from_may_change(finished, make_recipe):
    before = times(finished)
    train_run(make_recipe(evaluation__num_samples=3))
    assert times(finished) == before
    assert "num_samples: 3" in finished.recipe.read_text()


def test_restarting_diffusion_runs_only_diffusion(finished, make_recipe):
    before, facts = times(finished), finished.finished("autoencoder")
    train_run(make_recipe(diffusion__trainer__max_steps=2), restart=["diffusion"])
    after = times(finished)
    changed = {file for file in before.keys() | after.keys() if before.get(file) != after.get(file)}
    assert {file.split("/")[0] for file in changed} == {"diffusion", "pipeline", "state.json"}
    assert finished.finished("autoencoder") == facts
    diffusion = finished.finished("diffusion")
    assert diffusion is not None
    assert diffusion["num_steps"] == 2
    assert sorted(path.name for path in finished.checkpoints("diffusion").iterdir()) == ["best.ckpt", "step=2.ckpt"]


@pytest.mark.parametrize(
    ("folder", "overrides", "goes_on"),
    [
        ("moved", (), True),
        ("elsewhere/nano", (), True),
        ("moved", ("output_dir=other",), False),
        ("moved", ("name=fork",), False),
        ("a run", (), None),
    ],
)
def test_a_run_that_was_moved_goes_on_where_it_lies(make_recipe, tmp_path, monkeypatch, folder, overrides, goes_on):
    monkeypatch.chdir(tmp_path)
    train_run(make_recipe(diffusion=None, autoencoder__trainer__max_steps=2))
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    moved = RunFolder((tmp_path / "nano").rename(tmp_path / folder))
    before = times(moved)
    afresh = ["autoencoder.trainer.max_steps=4", "--restart", "autoencoder"]
    result = CliRunner().invoke(app, ["train", str(moved.recipe), *overrides, *afresh])
    if goes_on is None:
        assert result.exit_code == 2
        assert "rename the folder to go on with it" in result.output
    else:
        assert result.exception is None, result.output
        assert (f"{moved.path}: the run was in {tmp_path / 'nano'} before" in result.output) == goes_on
    assert not (tmp_path / "nano").exists()
    assert (times(moved) != before) == bool(goes_on)
    if goes_on:
        assert read_recipe(moved.recipe).run_folder == moved.path
        assert moved.finished("autoencoder")["num_steps"] == 4  # type: ignore[index]


def test_a_restart_that_is_refused_deletes_nothing(finished, make_recipe):
    before = times(finished)
    with pytest.raises(RecipeError, match="--restart autoencoder"):
        train_run(make_recipe(autoencoder__latent_channels=8), restart=["diffusion"])
    assert times(finished) == before


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_output_dir_that_cannot_be_written_is_the_users_mistake(make_recipe, tmp_path, dry_run):
    (tmp_path / "file").touch()
    for output_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(VaeLdmError, match=r"cannot be written \(Not a directory\); set output_dir"):
            train_run(make_recipe(output_dir), dry_run=dry_run)
    with pytest.raises(VaeLdmError, match=r"cannot be written \(.*\); set output_dir"):
        train_run(make_recipe(Path("/proc/none")), dry_run=dry_run)  # also root cannot write there


def test_pictures_without_prompts_are_refused_before_anything_is_trained(make_recipe, tmp_path):
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    data = {"type": "image_folder", "path": str(tmp_path), "image_size": 16}
    with pytest.raises(DataError, match="the pictures have no classes"):
        train_run(make_recipe(tmp_path / "runs", data=data))
    assert not (tmp_path / "runs/nano/autoencoder").exists()


def test_a_wrong_path_leaves_no_empty_run_behind(make_recipe, tmp_path):
    recipe = make_recipe(data={"type": "image_folder", "path": str(tmp_path / "nowhere"), "image_size": 16})
    with pytest.raises(DataError, match="nowhere"):
        train_run(recipe)
    assert not (Path(recipe.output_dir) / recipe.name).exists()


def test_weights_can_be_read_by_whoever_can_read_the_folder(trained_run):
    weights = [*trained_run.autoencoder.glob("*.safetensors"), *trained_run.pipeline.rglob("*.safetensors")]
    assert len(weights) >= 4
    assert {file.stat().st_mode & 0o777 for file in weights} == {trained_run.path.stat().st_mode & 0o666}


def test_restarting_the_autoencoder_restarts_what_follows_from_it(finished, make_recipe):
    run = finished
    run.restart(["autoencoder"])
    assert run.finished("autoencoder") is None
    assert run.finished("diffusion") is None
    assert {path.name for path in run.path.iterdir()} == {"recipe.yaml", "pictures", "state.json", "lock"}


@pytest.mark.parametrize(
    ("change", "is_free"),
    [
        ({"autoencoder__trainer__max_steps": 9}, True),
        ({"autoencoder__trainer__checkpoint_every_n_steps": 1}, True),
        ({"autoencoder__trainer__log_every_n_steps": 2}, True),
        ({"diffusion__trainer__batch_size": 3}, True),
        ({"autoencoder__trainer__batch_size": 3}, False),
        ({"autoencoder__optimizer__learning_rate": 0.1}, False),
        ({"data__horizontal_flip": False}, False),
        ({"seed": 4}, False),
    ],
)
def test_what_may_change_while_the_autoencoder_is_under_way(make_recipe, tmp_path, change, is_free):
    run = RunFolder(tmp_path / "nano")
    run.adopt(make_recipe())
    run.checkpoints("autoencoder").mkdir(parents=True)
    (run.checkpoints("autoencoder") / "step=2.ckpt").touch()
    if is_free:
        run.adopt(make_recipe(**change))
        return
    with pytest.raises(RecipeError, match="has begun with another recipe"):
        run.adopt(make_recipe(**change))


def test_a_key_that_only_ends_like_a_free_one_is_not_free(make_recipe, tmp_path):
    run = RunFolder(tmp_path / "nano")
    run.adopt(make_recipe())
    run.checkpoints("diffusion").mkdir(parents=True)
    (run.checkpoints("diffusion") / "step=2.ckpt").touch()
    with pytest.raises(RecipeError, match=r"autoencoder\.trainer\.max_steps"):
        run.adopt(make_recipe(autoencoder__trainer__max_steps=9))
    run.adopt(make_recipe(diffusion__trainer__max_steps=9))


def test_a_second_process_is_refused_in_one_line(make_recipe, recipe_file, tmp_path):
    run = RunFolder(tmp_path / "nano")
    with run.locked():
        result = CliRunner().invoke(app, ["train", str(recipe_file(make_recipe()))])
    assert result.exit_code == 1
    assert result.output == (
        f"error: {run.path}: another process is running here (process {os.getpid()} on {socket.gethostname()}); "
        "wait for it, or stop it\n"
    )
    assert {path.name for path in run.path.iterdir()} == {"lock"}


# --- a run and the folder one stands in ----------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    for number in range(12):
        file = tmp_path / "home" / "photos" / f"class {number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(file)
    return tmp_path / "home" / "photos"


@pytest.mark.parametrize("prefix", ["", "~/"])
def test_a_run_does_not_depend_on_where_one_stands(make_recipe, tmp_path, photos, monkeypatch, capsys, prefix):
    data = {"type": "image_folder", "path": f"{prefix}photos", "image_size": 16}
    settings = {"data": data, "diffusion": None, "autoencoder__trainer__max_steps": 2}
    monkeypatch.setenv("HOME", str(photos.parent))
    monkeypatch.chdir(photos.parent)
    train_run(make_recipe(f"{prefix}runs", **settings))
    assert {path.name for path in photos.parent.iterdir()} == {"photos", "runs"}
    run = RunFolder(photos.parent / "runs" / "nano")
    stored = read_recipe(run.recipe)
    assert (stored.data.path, stored.output_dir) == (str(photos), str(photos.parent / "runs"))
    before = times(run)

    train_run(make_recipe(f"{prefix}runs", **settings))  # as it was typed, from the same place
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train_run(stored)
    assert len(Session.opened(run.path).pictures.train) + len(Session.opened(run.path).pictures.validation) == 12
    assert times(run) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []

    # A recipe of version 0.1 holds the path as it was typed.
    run.recipe.write_text(run.recipe.read_text().replace(str(photos), "photos"))
    capsys.readouterr()
    assert len(Session.opened(run.path).pictures.train) > 0
    assert "going on with the pictures in" in capsys.readouterr().err
    monkeypatch.chdir(photos.parent)
    train_run(make_recipe(f"{prefix}runs", **settings))
    assert times(run) == before


def test_a_touched_photo_is_the_same_photo(make_recipe, photos, capsys):
    data = {"type": "image_folder", "path": str(photos), "image_size": 16}
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=True, batch=5)
        with pytest.raises(Stop):
            train_run(make_recipe(data=data, diffusion=None))
    os.utime(photos / "class 0" / "0.png", (1, 1))
    capsys.readouterr()
    train_run(make_recipe(data=data, diffusion=None))
    said = capsys.readouterr().err
    assert "going on from step 2" in said
    assert "others than before" not in said


# --- state.json -------------------------------------------------------------------------------------------------------


def test_a_state_of_version_0_1_is_read_and_becomes_one_of_today(finished):
    facts = finished.finished("autoencoder")
    stored = json.loads(finished.state.read_text())
    assert stored["format"] == 2
    old = {stage: stored[stage] for stage in ("autoencoder", "diffusion")}
    finished.state.write_text(json.dumps(old, indent=1))
    assert finished.finished("autoencoder") == facts
    finished.finish("evaluation", seconds=1)
    stored = json.loads(finished.state.read_text())
    assert {stage: stored[stage] for stage in old} == old
    assert (stored["format"], stored["evaluation"]) == (2, {"seconds": 1})


@pytest.mark.parametrize("damage", ["", "[]", '{"autoencoder": 3}', "one digit"])
def test_a_damaged_state_is_one_line_and_the_cure_is_true(finished, make_recipe, damage):
    if damage == "one digit":
        damage = finished.state.read_text().replace('"num_steps": 6', '"num_steps": 7', 1)
        assert damage != finished.state.read_text()
    finished.state.write_text(damage)
    with pytest.raises(VaeLdmError) as caught:
        train_run(make_recipe())
    message = str(caught.value)
    assert message.startswith(f"{finished.state}: is damaged (")
    assert message.endswith("; restore it, or train the run afresh with --restart autoencoder")
    assert "\n" not in message
    finished.adopt(make_recipe(), restart=["autoencoder"])
    assert finished.finished("diffusion") is None
    assert not finished.autoencoder.exists()


def test_a_state_of_a_newer_version_is_left_alone(finished, make_recipe):
    finished.state.write_text(json.dumps({"format": 3, "written_by": "0.3.0"}))
    for restart in ([], ["diffusion"]):
        with pytest.raises(VaeLdmError, match=r"pip install 'vae_ldm>=0\.3\.0'"):
            train_run(make_recipe(), restart=restart)


def test_what_a_killed_process_left_in_the_run_is_put_in_order(finished):
    finished.pipeline.rename(finished.path / ".pipeline.vae_ldm-new")
    (finished.path / ".pipeline.vae_ldm-old").mkdir()
    with finished.locked():
        assert (finished.pipeline / "model_index.json").is_file()
    assert not list(finished.path.glob(".*"))


@pytest.fixture
def machine(monkeypatch):
    """A machine without OMP_NUM_THREADS, whose threads are counted and not started."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    set_to, free = [8], [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: set_to[-1])
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(stages, "num_free_cores", lambda: free[-1])
    return set_to, free


def test_a_run_trains_on_the_cores_that_are_free_and_goes_on_with_as_many(make_recipe, machine, capsys, monkeypatch):
    set_to, free = machine
    session = Session.of(make_recipe())

    def threads():
        set_to.append(8)  # as prepare_cpu leaves it
        stages._choose_threads(session)
        return set_to[-1]

    session.run.path.mkdir(parents=True)
    free.append(3)
    assert threads() == 3
    assert "training on 3 threads: other work takes the other cores" in capsys.readouterr().err
    free.append(8)
    assert threads() == 3  # a resume, on a machine that is quiet now
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads() == 8
    assert "began on 3 threads and goes on with the 8" in capsys.readouterr().err


def test_a_run_of_before_keeps_every_core(make_recipe, machine):
    set_to, free = machine
    session = Session.of(make_recipe())
    checkpoints = session.run.checkpoints("autoencoder")
    checkpoints.mkdir(parents=True)
    (checkpoints / "step=4.ckpt").touch()
    free.append(1)
    set_to.append(8)
    stages._choose_threads(session)
    assert set_to[-1] == 8
