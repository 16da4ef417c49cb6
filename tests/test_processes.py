"""The command on two processes, as `accelerate launch` starts it."""

import io
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.processes import Processes as Pool
from tests.processes import two_processes
from tests.run.conftest import finish, wait_for
from tests.support.launching import Launch
from vae_ldm.data.posterior_cache import PosteriorDataset
from vae_ldm.data.sampling import Batch
from vae_ldm.errors import DataError, RunError
from vae_ldm.evaluation.distribution import frechet_distance, kernel_distance
from vae_ldm.models.autoencoder import load_autoencoder_kl
from vae_ldm.models.pixels import as_images
from vae_ldm.processes import OtherProcessFailedError, Processes
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.session import Session
from vae_ldm.run.stages import train_run
from vae_ldm.training.callbacks import checkpoint_step
from vae_ldm.training.checkpoint_names import run_checkpoints
from vae_ldm.training.lit_autoencoder import LitAutoencoder


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """`launch("train", recipe)`: see `Launch`; ended with the test."""
    launches: list[Launch] = []

    def begin(*arguments: str | Path, **options: Any) -> Launch:
        launches.append(Launch(tmp_path, *arguments, **options))
        return launches[-1]

    yield begin
    for each in launches:
        each.close()


def newest_step(run: RunFolder) -> int:
    """Of the autoencoder's checkpoints; 0 where there is none."""
    return next(map(checkpoint_step, run_checkpoints(run.checkpoints("autoencoder"))), 0)


@pytest.mark.slow
def test_a_run_on_two_processes_of_which_one_is_killed_and_which_is_then_stopped(
    launch, make_recipe, recipe_file, tmp_path
):
    run = RunFolder(tmp_path / "nano")
    recipe = make_recipe(autoencoder__trainer__max_steps=80, data__num_train=25, data__num_validation=7)
    process = launch("train", recipe_file(recipe))
    wait_for(lambda: newest_step(run) > 0, process)
    process.rank(1).kill()
    code, said = finish(process)
    assert code != 0
    assert "SIGKILL" in said
    assert said.count("Traceback") == 1, said  # the launcher's; the other rank has a line for it
    assert run.finished("autoencoder") is None

    before = newest_step(run)
    process = launch("train", recipe_file(recipe))
    wait_for(lambda: newest_step(run) > before, process)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code != 0
    (stopped_at,) = re.findall(r"stopped by SIGTERM after step (\d+), which is saved", said)
    assert newest_step(run) == int(stopped_at)
    assert run.finished("autoencoder") is None

    # Each rank of the last launch is a Python that imports everything after the launcher has given it its place.
    few_more = f"autoencoder.trainer.max_steps={int(stopped_at) + 2}"
    code, said = finish(launch("train", recipe_file(recipe), few_more, forked=False))
    assert code == 0, said
    assert len(re.findall("autoencoder: going on from step", said)) == 1, said  # by the first process alone
    assert len(re.findall("^pipeline:", said, re.M)) == 1, said
    facts = run.finished("diffusion")
    assert facts is not None
    assert (facts["num_steps"], facts["num_images"]) == (6, 6 * 2 * 4 * 2)
    StableDiffusionPipeline.from_pretrained(run.pipeline)

    # Every picture's posterior is there, once and in its place, whichever process has computed it.
    pictures, autoencoder = Session(recipe, run).pictures, load_autoencoder_kl(str(run.autoencoder))
    for split, expected in (("train", pictures.train), ("validation", pictures.validation)):
        cached = PosteriorDataset(run.latents / split, torch.zeros(len(expected), 2), seed=0, augment=False)
        batch = cached[Batch(0, torch.arange(len(expected)).numpy())]
        with torch.no_grad():
            mean = autoencoder.encode(as_images(expected.images)).latent_dist.mean
        torch.testing.assert_close(batch["mean"], mean, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        posterior = autoencoder.encode(as_images(pictures.train.images)).latent_dist
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 1e-3
    spread = (posterior.mean.var((0, 2, 3), correction=0) + posterior.var.mean((0, 2, 3))).sqrt()
    assert (spread - 1).abs().max() < 1e-3


def fails_in_the_second_rank(error: type[Exception]) -> None:
    """The second rank meets a fault at its fifth batch: one of the program, or one of the pictures."""
    training_step = LitAutoencoder.training_step

    def failing(self: LitAutoencoder, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 4:
            raise error("a fault that only one process meets")
        return training_step(self, batch, batch_idx)

    if os.environ["RANK"] == "1":
        LitAutoencoder.training_step = failing  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said_as"),
    [
        (ValueError, "ValueError: a fault that only one process meets"),
        (DataError, "error: process 1: a fault that only one process meets"),
    ],
)
def test_a_rank_that_raises_ends_the_job_with_its_error_on_top(
    launch, make_recipe, recipe_file, tmp_path, error, said_as
):
    run = RunFolder(tmp_path / "nano")
    command = ("train", recipe_file(make_recipe(diffusion=None)))
    code, said = finish(launch(*command, prepare=partial(fails_in_the_second_rank, error)))
    assert code != 0
    # Nothing is above it but its own traceback, where it is a bug.
    before, found, after = said.partition(said_as)
    assert found, said
    assert before.count("Traceback") == (error is ValueError), said
    assert "another process" not in before, said
    # The launcher has its say after it; the other rank has at most a line.
    assert after.count("Traceback") == 1, said
    assert run.finished("autoencoder") is None

    if error is ValueError:
        with two_processes() as two:
            first, second = two(train_to_the_end, settings=make_recipe(diffusion=None).model_dump())
        assert "autoencoder: going on from step 2" in first
        assert "going on" not in second
        assert run.finished("autoencoder") is not None


def train_to_the_end(settings: dict) -> str:
    """What this process says on the way."""
    from tests.conftest import nano_networks_in_place
    from vae_ldm.recipe import Recipe

    said = io.StringIO()
    with nano_networks_in_place(), pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.setattr("vae_ldm.run.stages.run_evaluation_stage", lambda session, autoencoder: None)
        train_run(Recipe.model_validate(settings))
    return said.getvalue()


def interrupted_run(settings: dict, output_dir: str) -> tuple[int, int]:
    """Two processes train four of six steps and stop; the place of each is given back."""
    from tests.conftest import nano_networks_in_place
    from tests.support.stopping import Stop, stop_at_batch
    from vae_ldm.recipe import Recipe

    recipe = Recipe.model_validate(settings)
    with nano_networks_in_place(), pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=True, batch=9)
        with pytest.raises(Stop):
            train_run(recipe)
    processes = Processes.launched()
    return processes.rank, processes.count


def test_a_run_begun_on_two_processes_goes_on_alone_and_says_what_that_means(make_recipe, tmp_path, capsys):
    recipe = make_recipe(diffusion=None)
    with two_processes() as two:
        places = two(interrupted_run, settings=recipe.model_dump(), output_dir=str(tmp_path))
    assert places == [(0, 2), (1, 2)]
    train_run(recipe)
    said = capsys.readouterr().err
    assert "was written by 2 processes and is read by 1;" in said
    assert "not be bit-identical" in said
    facts = RunFolder(tmp_path / "nano").finished("autoencoder")
    assert facts is not None
    assert (facts["num_steps"], facts["num_images"]) == (6, (4 * 2 * 2 + 2 * 2) * 4)


def test_a_broken_connection_is_one_line():
    broken = RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3942")
    line = r"^another process has gone: its own error, or the launcher's below, says why; repeat the command$"
    with pytest.raises(RunError, match=line), Processes(rank=0, count=2).joined():
        raise broken
    with pytest.raises(RuntimeError, match="gloo"), Processes().joined():
        raise broken
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), Processes(rank=0, count=2).joined():
        raise RuntimeError("shapes differ")


def first_fails() -> str:
    processes = Processes.launched()
    assert processes.first(lambda: processes.rank) == 0
    try:
        processes.first(lambda: 1 // 0)
    except ZeroDivisionError:
        return "raised"
    except OtherProcessFailedError as left:
        return f"left with {left.code}"
    return "went on"


def totals() -> list[float]:
    processes = Processes.launched()
    processes.wait()
    return processes.total(torch.tensor([1.0 + processes.rank, 2.0])).tolist()


def test_what_the_first_does_for_all(two: Pool):
    assert two(first_fails) == ["raised", "left with 1"]
    assert two(totals) == [[3.0, 4.0]] * 2


def measures_alone() -> list[float]:
    processes = Processes.launched()
    one, other = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    return processes.first(lambda: [frechet_distance(one, other), kernel_distance(one, other).value])


def test_the_first_measures_while_the_other_waits(two: Pool):
    one, other = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    alone = [frechet_distance(one, other), kernel_distance(one, other).value]
    assert two(measures_alone) == [pytest.approx(alone, rel=1e-5)] * 2


@pytest.fixture(scope="module")
def two():
    with two_processes() as processes:
        yield processes
