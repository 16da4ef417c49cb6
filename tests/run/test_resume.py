"""Design promise 5: stop anywhere, go on exactly. kill -9 is in test_kill."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning import Callback

from tests.run.conftest import ForkedCommand, assert_same_run, finish, start, wait_for
from tests.support.stopping import Stop, stop_at_batch, stop_once
from vae_ldm.errors import StoppedError
from vae_ldm.opening import open_pipeline
from vae_ldm.pipelines import plain_folder
from vae_ldm.run import autoencoder_stage, diffusion_stage, fitting
from vae_ldm.run.folder import RunFolder, Stage
from vae_ldm.run.stages import train_run
from vae_ldm.training.callbacks import checkpoint_step


def begin(trained_run: RunFolder, path: Path, stage: Stage) -> dict[str, None]:
    """Lay a run in `path` that has all before the stage behind it; what its recipe says differently for speed."""
    if stage == "autoencoder":
        return {"diffusion": None}
    shutil.copytree(trained_run.path, path)
    run = RunFolder(path)
    run.restart(["diffusion"])
    shutil.rmtree(run.latents)
    return {}


# 6 steps of 2 batches, a checkpoint and a validation every 2 steps, the discriminator from step 3 on.
@pytest.mark.parametrize(
    ("stage", "batch"),
    [(stage, batch) for stage in ("autoencoder", "diffusion") for batch in (1, 4, 7, 11)],
)
def test_a_run_stopped_in_training_ends_as_if_it_had_not_been(trained_run, make_recipe, tmp_path, stage, batch):
    recipe = make_recipe(**begin(trained_run, tmp_path / "nano", stage))
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=stage == "autoencoder", batch=batch)
        with pytest.raises(Stop):
            train_run(recipe)
    train_run(recipe)
    assert_same_run(trained_run, RunFolder(tmp_path / "nano"), stage)


@pytest.mark.parametrize(
    ("stage", "where", "name", "after"),
    [
        ("autoencoder", autoencoder_stage, "finish_autoencoder", False),
        ("autoencoder", autoencoder_stage.AutoencoderKL, "save_pretrained", True),
        ("diffusion", diffusion_stage, "cache_posteriors", True),
        ("diffusion", diffusion_stage, "build_diffusion", False),
        ("diffusion", plain_folder, "_make_readable_by_transformers_4", False),
        ("diffusion", diffusion_stage, "save_pipeline", True),
    ],
)
def test_a_run_stopped_between_trainings_ends_as_if_it_had_not_been(
    trained_run, make_recipe, tmp_path, stage, where, name, after
):
    recipe = make_recipe(**begin(trained_run, tmp_path / "nano", stage))
    with pytest.MonkeyPatch.context() as patch:
        stop_once(patch, where, name, after=after)
        with pytest.raises(Stop):
            train_run(recipe)
    train_run(recipe)
    assert_same_run(trained_run, RunFolder(tmp_path / "nano"), stage)


def stop_when_trained(recipe):
    """The autoencoder has all its checkpoints, and is not finished."""
    with pytest.MonkeyPatch.context() as patch:
        stop_once(patch, autoencoder_stage, "finish_autoencoder", after=False)
        with pytest.raises(Stop):
            train_run(recipe)


def test_a_checkpoint_that_is_being_written_is_not_picked_up(trained_run, make_recipe, tmp_path, capsys):
    recipe = make_recipe(diffusion=None)
    stop_when_trained(recipe)
    run = RunFolder(tmp_path / "nano")
    newest = run.checkpoints("autoencoder") / "step=6.ckpt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    capsys.readouterr()
    train_run(recipe)
    said = capsys.readouterr().err
    assert f"{newest} is damaged; trying the one before" in said
    assert "autoencoder: going on from step 4" in said
    assert_same_run(trained_run, run, "autoencoder")


def test_a_flipped_byte_in_a_checkpoint_is_noticed(make_recipe, tmp_path, capsys):
    recipe = make_recipe(diffusion=None)
    stop_when_trained(recipe)
    for newest in RunFolder(tmp_path / "nano").checkpoints("autoencoder").glob("*.ckpt"):
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 0xFF
        newest.write_bytes(content)
    capsys.readouterr()
    train_run(recipe)
    said = capsys.readouterr().err
    assert said.count("is damaged; trying the one before") == 3
    assert "no checkpoint is whole; beginning at step 0" in said
    assert "going on from" not in said


def test_where_only_the_best_checkpoint_is_whole_it_is_gone_on_from(trained_run, make_recipe, tmp_path, capsys):
    recipe = make_recipe(diffusion=None)
    stop_when_trained(recipe)
    folder = RunFolder(tmp_path / "nano").checkpoints("autoencoder")
    (folder / "step=4.ckpt").replace(folder / "best.ckpt")
    (folder / "step=6.ckpt").write_bytes((folder / "step=6.ckpt").read_bytes()[:1000])
    assert checkpoint_step(folder / "best.ckpt") == 4
    capsys.readouterr()
    train_run(recipe)
    assert f"autoencoder: going on from step 4 ({folder / 'best.ckpt'})" in capsys.readouterr().err
    assert_same_run(trained_run, RunFolder(tmp_path / "nano"), "autoencoder")


def test_a_stop_leaves_the_terminal_with_its_cursor(make_recipe, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich a terminal
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=True, batch=5)
        with pytest.raises(Stop):
            train_run(make_recipe(diffusion=None))
    said = capsys.readouterr().err
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l") > 0


def test_other_pictures_than_before_the_stop_are_spoken_of(make_recipe, tmp_path, capsys):
    photos = tmp_path / "photos"
    for number in range(12):
        image = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        (photos / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / f"class {number % 2}" / f"{number}.png")
    data = {"data": {"type": "image_folder", "path": str(photos), "image_size": 16}, "diffusion": None}
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=True, batch=9)
        with pytest.raises(Stop):
            train_run(make_recipe(**data))
    (photos / "class 0" / "0.png").unlink()
    capsys.readouterr()
    train_run(make_recipe(**data))
    assert "autoencoder: the pictures are others than before (" in capsys.readouterr().err


def test_prompts_stay_as_long_as_the_run_was_begun_with(trained_run, make_recipe, tmp_path):
    """Where the recipe leaves their length open: its default may be another one today."""
    begin(trained_run, tmp_path / "nano", "diffusion")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=False, batch=7)
        with pytest.raises(Stop):
            train_run(make_recipe(diffusion__text_encoder__min_length=23))
    train_run(make_recipe(), dry_run=True)
    train_run(make_recipe())
    assert open_pipeline(tmp_path / "nano").tokenizer.model_max_length == 23
    train_run(make_recipe(), restart=["diffusion"])
    assert_same_run(trained_run, RunFolder(tmp_path / "nano"), "diffusion")


@pytest.mark.parametrize(
    ("max_steps", "num_steps", "num_images"),
    [
        (8, 8, 64),  # a constant rate and no discriminator's start that moves: the longer run is the same up to here
        (3, 4, 32),  # it has done enough already, and ends with what it has
    ],
)
def test_training_may_be_prolonged_or_shortened_while_under_way(
    make_recipe, tmp_path, max_steps, num_steps, num_images
):
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=True, batch=9)
        with pytest.raises(Stop):
            train_run(make_recipe(diffusion=None))
    train_run(make_recipe(diffusion=None, autoencoder__trainer__max_steps=max_steps))
    facts = RunFolder(tmp_path / "nano").finished("autoencoder")
    assert facts is not None
    assert (facts["num_steps"], facts["num_images"]) == (num_steps, num_images)


def test_checkpoints_do_not_pile_up_over_stops(make_recipe, tmp_path):
    for batch in (5, 9):
        with pytest.MonkeyPatch.context() as patch:
            stop_at_batch(patch, manual=True, batch=batch)
            with pytest.raises(Stop):
                train_run(make_recipe(diffusion=None))
    train_run(make_recipe(diffusion=None))
    names = sorted(path.name for path in RunFolder(tmp_path / "nano").checkpoints("autoencoder").iterdir())
    assert names == ["best.ckpt", "step=4.ckpt", "step=6.ckpt"]


# --- Ctrl-C and SIGTERM -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "exit_code", "begins"),
    [
        (
            signal.SIGINT,
            130,
            r"stopped after step \d+(, which is saved|; \d+ steps? since the checkpoint of step {step} .*); ",
        ),
        (signal.SIGTERM, 143, "stopped by SIGTERM after step {step}, which is saved; "),
    ],
)
def test_a_stop_ends_with_a_line_and_its_code(make_recipe, recipe_file, tmp_path, sent, exit_code, begins):
    run = RunFolder(tmp_path / "nano")
    command = ("train", recipe_file(make_recipe(autoencoder__trainer__max_steps=400, diffusion=None)))
    process = start(*command)
    wait_for(lambda: any(run.checkpoints("autoencoder").glob("step=*.ckpt")), process)
    process.send_signal(sent)
    code, said = finish(process)
    assert code == exit_code, said
    step = max(map(checkpoint_step, run.checkpoints("autoencoder").glob("step=*.ckpt")))
    expected = f"{begins.format(step=step)}repeat the command to go on from step {step} of the stage autoencoder"
    assert re.fullmatch(expected, said.splitlines()[-1]), said
    assert "Traceback" not in said


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_sigterm_saves_after_the_step_and_has_an_exit_code(trained_run, make_recipe, tmp_path, monkeypatch, stage):
    recipe = make_recipe(**begin(trained_run, tmp_path / "nano", stage))

    class Terminate(Callback):
        def on_train_batch_start(self, *arguments: object) -> None:
            if arguments[3] == 4:  # the first of two batches of step 3, at which no checkpoint is due
                signal.raise_signal(signal.SIGTERM)

    build_trainer = fitting.build_trainer

    def terminating(*args: object, **kwargs: object) -> object:
        kwargs["callbacks"] = [*kwargs["callbacks"], Terminate()]  # type: ignore[misc]
        return build_trainer(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "build_trainer", terminating)
        rest = f"; repeat the command to go on from step 3 of the stage {stage}"
        with pytest.raises(StoppedError, match=f"after step 3, which is saved{rest}$"):
            train_run(recipe)
    run = RunFolder(tmp_path / "nano")
    assert (run.checkpoints(stage) / "step=3.ckpt").exists()  # type: ignore[arg-type]
    train_run(recipe)
    assert_same_run(trained_run, run, stage)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_restart_the_way_to_go_on_is_without_it(make_recipe, recipe_file, tmp_path, number):
    """With --restart once more, what was saved would be deleted."""
    run = RunFolder(tmp_path / "nano")
    recipe = recipe_file(make_recipe(autoencoder__trainer__max_steps=400, diffusion=None))
    process = ForkedCommand("train", recipe, "--restart", "autoencoder")
    wait_for(lambda: any(run.checkpoints("autoencoder").glob("step=*.ckpt")), process)
    process.send_signal(number)
    code, said = finish(process)
    assert code == 128 + number, said
    assert said.splitlines()[-1].startswith("stopped")
    rest = r"; repeat the command without --restart autoencoder to go on from step \d+ of the stage autoencoder$"
    assert re.search(rest, said.splitlines()[-1])
    assert "leave --restart out to go on with it" in said
    kept = {path.name for path in run.checkpoints("autoencoder").iterdir()}
    train_run(make_recipe(autoencoder__trainer__max_steps=400, diffusion=None), dry_run=True)
    assert {path.name for path in run.checkpoints("autoencoder").iterdir()} == kept


def test_a_stop_before_anything_was_deleted_is_repeated_as_it_is(trained_run, make_recipe, tmp_path, monkeypatch):
    shutil.copytree(trained_run.path, tmp_path / "nano")
    monkeypatch.setattr(RunFolder, "adopt", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(StoppedError, match=r"^stopped by SIGTERM; nothing is trained yet, so repeat the command as it"):
        train_run(make_recipe(), restart=["diffusion"])


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_stop_before_the_first_checkpoint_says_that_nothing_is_saved(
    trained_run, make_recipe, tmp_path, monkeypatch, stage
):
    recipe = make_recipe(**begin(trained_run, tmp_path / "nano", stage))
    where = autoencoder_stage if stage == "autoencoder" else diffusion_stage
    monkeypatch.setattr(where, "fit_stage", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    line = f"^stopped by SIGTERM; nothing of the stage {stage} is saved yet, so repeat the command to begin this stage"
    with pytest.raises(StoppedError, match=line):
        train_run(recipe)


@pytest.mark.parametrize("where", ["finish_autoencoder", "save_pretrained"])
def test_sigterm_between_trainings(make_recipe, tmp_path, monkeypatch, trained_run, where):
    def terminated(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        owner = autoencoder_stage if where == "finish_autoencoder" else autoencoder_stage.AutoencoderKL
        patch.setattr(owner, where, terminated)
        with pytest.raises(StoppedError, match="stopped by SIGTERM"):
            train_run(make_recipe(diffusion=None))
    train_run(make_recipe(diffusion=None))
    assert_same_run(trained_run, RunFolder(tmp_path / "nano"), "autoencoder")
