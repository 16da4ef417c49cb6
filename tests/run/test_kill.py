"""Design promise 5 under kill -9: whatever a command was doing, the same command again brings it to its end."""

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import nano_networks_in_place
from tests.run.conftest import ForkedCommand, assert_same_run, assert_same_weights, finish, wait_for
from tests.support.fork_server import fork
from tests.support.killing import Moment, end, killed_at, train
from vae_ldm.run.export import export_checkpoint
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.report import write_report


def export(run: Path, target: Path, moment: Moment | None = None) -> None:
    with nano_networks_in_place(), killed_at(moment):
        export_checkpoint(run, checkpoint="6", output_dir=target)


@pytest.mark.slow
def test_kill_in_every_stage(trained_run, make_recipe, recipe_file, tmp_path):
    run = RunFolder(tmp_path / "nano")
    command = ("train", recipe_file(make_recipe()))
    moments: list[tuple[Callable[[], bool], Callable[[], bool]]] = [
        (lambda: (run.path / "pictures.partial").exists() or run.pictures.exists(), lambda: True),
        (lambda: any(run.checkpoints("autoencoder").glob("*.ckpt")), lambda: run.finished("autoencoder") is None),
        (lambda: run.latents.exists(), lambda: run.finished("diffusion") is None),
        (lambda: any(run.checkpoints("diffusion").glob("*.ckpt")), lambda: run.finished("diffusion") is None),
    ]
    for reached, still_before_the_end in moments:
        process = ForkedCommand(*command)
        wait_for(reached, process)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert still_before_the_end()
    code, said = finish(ForkedCommand(*command))
    assert code == 0, said
    assert_same_run(trained_run, run)


PLACES = ("before its first checkpoint", "autoencoder", "latents", "diffusion")
"""Where a run is for long enough to be killed there."""


@pytest.mark.slow
def test_kill_at_random_moments_of_all_stages(trained_run, make_recipe, tmp_path):
    """Each run is killed at a random moment of a place that lacks one, and the next goes on; two kills a place."""
    run, recipe = RunFolder(tmp_path / "nano"), make_recipe()
    lasted, now = dict.fromkeys(PLACES, 0.0), time.monotonic()
    process = fork(train, recipe)
    while process.is_alive():
        place, before, now = where_it_is(run), now, time.monotonic()
        lasted[place] = lasted.get(place, 0) + now - before
        time.sleep(0.002)
    end(process)
    assert_same_run(trained_run, run)
    shutil.rmtree(run.path)

    chance, kills, trials = random.Random(0), Counter[str](), 0
    while min(kills[place] for place in PLACES) < 2:
        trials += 1
        assert trials < 40, kills
        process = fork(train, recipe)
        while process.is_alive() and where_it_is(run) not in [place for place in PLACES if kills[place] < 2]:
            time.sleep(0.002)
        process.join(lasted[where_it_is(run)] * chance.random())
        process.kill()
        process.join()
        if process.exitcode == 0:  # it had come to its end before
            assert_same_run(trained_run, run)
            shutil.rmtree(run.path)
        else:
            assert process.exitcode == -signal.SIGKILL
            kills[where_it_is(run)] += 1
    end(fork(train, recipe))
    assert_same_run(trained_run, run)


def where_it_is(run: RunFolder) -> str:
    if not run.pictures.exists():
        return "reading pictures"
    if run.finished("autoencoder") is None:
        return "autoencoder" if any(run.checkpoints("autoencoder").glob("*.ckpt")) else "before its first checkpoint"
    if run.finished("diffusion") is None:
        return "diffusion" if run.diffusion.exists() else "latents"
    return "evaluation"


@pytest.mark.slow
def test_kill_while_averages_are_kept_and_one_is_chosen(make_recipe, tmp_path):
    """A snapshot that is written, a choice that is made and snapshots that are still to be deleted."""
    settings: dict[str, Any] = {
        "diffusion": None,
        "autoencoder__ema": {"type": "power", "lengths": [0.05, 0.1], "num_snapshots": 3},
        "autoencoder__trainer__export": "best",
    }
    whole, killed = RunFolder(tmp_path / "whole" / "nano"), RunFolder(tmp_path / "nano")
    end(fork(train, make_recipe(tmp_path / "whole", **settings)))
    recipe = make_recipe(**settings)
    for moment in (
        Moment("vae_ldm.training.power_averages", "write_snapshot", after=True),
        Moment("vae_ldm.run.fitting", "choose_weights", after=True),
        Moment("vae_ldm.run.autoencoder_stage", "drop_snapshots", after=False),
    ):
        end(fork(train, recipe, False, moment), code=-signal.SIGKILL)
        assert (killed.path / "autoencoder" / "averages").exists()
    end(fork(train, recipe))
    assert_same_run(whole, killed, "autoencoder")
    assert (whole.finished("autoencoder") or {})["choice"] == (killed.finished("autoencoder") or {})["choice"]
    for run in (whole, killed):
        assert not (run.path / "autoencoder" / "averages").exists()


@pytest.mark.slow
def test_kill_while_evaluating(trained_run, make_recipe, tmp_path):
    """The numbers, the pictures and the page are those of an evaluation that nothing has disturbed."""
    undisturbed, run = RunFolder(tmp_path / "undisturbed" / "nano"), RunFolder(tmp_path / "nano")
    for each in (undisturbed, run):
        shutil.copytree(trained_run.path, each.path)
    began = time.monotonic()
    end(fork(train, make_recipe(tmp_path / "undisturbed"), True))
    whole = time.monotonic() - began

    recipe, evaluate = make_recipe(), "vae_ldm.run.evaluate"
    for moment in (
        Moment(evaluate, "draw_reconstructions", after=True),
        Moment(evaluate, "draw_samples", after=True),
        Moment(evaluate, "write_json", after=True),
        Moment(evaluate, "write_report", after=True),
    ):
        end(fork(train, recipe, True, moment), code=-signal.SIGKILL)
        assert run.finished("evaluation") is None
    chance, kills = random.Random(1), 0
    while kills < 6:
        process = fork(train, recipe, True)
        process.join(whole * chance.random())
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            run.restart(["evaluation"])
    end(fork(train, recipe, True))
    assert_same_evaluation(undisturbed, run)


def assert_same_evaluation(one: RunFolder, other: RunFolder) -> None:
    found, expected = (json.loads(run.metrics.read_text()) for run in (one, other))
    for what in ("measurements", "parameters", "data"):
        assert found[what] == expected[what]
    pictures = sorted(path.name for path in one.samples.iterdir())
    assert pictures == sorted(path.name for path in other.samples.iterdir())
    for name in pictures:
        assert (one.samples / name).read_bytes() == (other.samples / name).read_bytes(), name
    for run in (one, other):
        assert run.finished("evaluation") is not None
        page = run.report.read_text()
        assert write_report(run.path).read_text() == page  # of these very numbers and pictures
    assert not list(other.path.rglob("*.part"))


@pytest.mark.slow
def test_kill_while_exporting(trained_run, tmp_path):
    """The folder is whole or absent, and the same command works afterwards."""
    shutil.copytree(trained_run.path, tmp_path / "run")
    target = tmp_path / "export"
    began = time.monotonic()
    end(fork(export, tmp_path / "run", target))
    whole = time.monotonic() - began
    shutil.rmtree(target)

    # With everything written and not yet in its place.
    moment = Moment("vae_ldm.files", "let_others_read", after=True)
    end(fork(export, tmp_path / "run", target, moment), code=-signal.SIGKILL)
    assert not target.exists()
    chance, kills = random.Random(2), 0
    while kills < 9:
        process = fork(export, tmp_path / "run", target)
        process.join(whole * chance.random())
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if target.exists():
            assert_same_files(trained_run.pipeline, target)
            shutil.rmtree(target)
    end(fork(export, tmp_path / "run", target))
    assert_same_files(trained_run.pipeline, target)
    assert not list(tmp_path.glob("*.part"))


def assert_same_files(one: Path, other: Path) -> None:
    assert_same_weights(one, other)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
