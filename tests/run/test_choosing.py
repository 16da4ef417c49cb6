"""Which weights leave a stage: the best on one half of the validation pictures, told by the other half."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from tests.conftest import _no_evaluation, nano_networks_in_place, nano_run
from tests.processes import two_processes
from tests.run.conftest import assert_same_run, assert_same_weights
from tests.support.stopping import Stop, stop_at_batch, stop_once
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.evaluation.meaning import meaning
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.recipe import Recipe
from vae_ldm.run import autoencoder_stage, choosing, diffusion_stage, fitting
from vae_ldm.run.choosing import LAST, Choice, best_of, of_choice, validation_halves
from vae_ldm.run.export import export_checkpoint
from vae_ldm.run.fitting import module_weights
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.report import write_report
from vae_ldm.run.stages import train_run
from vae_ldm.training.callbacks import checkpoint_step
from vae_ldm.training.csv_log import read_csv_log
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion
from vae_ldm.training.power_averages import read_snapshot

POWER = {"type": "power", "lengths": [0.05, 0.1], "num_snapshots": 3}
"""Both are kept as they are: six steps are too few to put another one together."""


def begin_diffusion(trained_run: RunFolder, path: Path) -> RunFolder:
    """The finished autoencoder of the tiny run, for the stage after it."""
    shutil.copytree(trained_run.path, path)
    RunFolder(path).restart(["diffusion"])
    return RunFolder(path)


def choice_of(run: RunFolder, stage: Any) -> dict[str, Any]:
    return (run.finished(stage) or {})["choice"]


def validated(run: RunFolder) -> dict[int, float]:
    """The loss of each validation of the diffusion stage, by the number of steps before it."""
    rows = [row for row in read_csv_log(run.log("diffusion")) if row.get("val/loss")]
    return {int(row["step"]) + 1: float(row["val/loss"]) for row in rows}


def test_halves_take_turns_and_share_nothing():
    halves = validation_halves(7, 1, "diffusion")
    assert halves.choosing.tolist() == [0, 2, 4, 6]
    assert halves.judging.tolist() == [1, 3, 5]
    with pytest.raises(
        DataError, match=r"^1 validation picture cannot be halved .* set diffusion.trainer.export: last"
    ):
        validation_halves(1, 1, "diffusion")


@pytest.mark.parametrize(("mode", "best"), [("min", "b"), ("max", "c")])
def test_a_metric_that_is_no_number_is_never_the_best(mode, best):
    assert best_of({"a": float("nan"), "b": 1.0, "c": 2.0}, mode) == best
    assert best_of({"a": float("nan")}, mode) == "a"


@pytest.fixture(scope="module")
def chosen_once(trained_once, tmp_path_factory) -> RunFolder:
    """A run that chooses in both stages."""

    return nano_run(
        tmp_path_factory.mktemp("chosen"),
        autoencoder__ema=POWER,
        autoencoder__trainer__export="best",
        autoencoder__trainer__best_by="val/ssim",
        diffusion__ema=POWER,
        diffusion__trainer__export="best",
    )


SETTINGS: dict[str, Any] = {
    "autoencoder__ema": POWER,
    "autoencoder__trainer__export": "best",
    "autoencoder__trainer__best_by": "val/ssim",
    "diffusion__ema": POWER,
    "diffusion__trainer__export": "best",
}


@pytest.mark.parametrize(
    ("stage", "metric", "pick"), [("autoencoder", "val/ssim", max), ("diffusion", "val/loss", min)]
)
def test_what_leaves_is_the_best_on_the_choosing_half(chosen_once, stage, metric, pick):
    choice = choice_of(chosen_once, stage)
    candidates = choice["candidates"]
    assert {LAST, "the averages of length 0.05", "the averages of length 0.1"} <= set(candidates)
    assert len(candidates) == 4, "and best.ckpt"
    assert len(set(candidates.values())) >= 3, "else there is nothing to choose"
    assert choice["metric"] == metric
    assert candidates[choice["name"]] == pick(candidates.values())
    assert (choice["num_choosing"], choice["num_judging"]) == (3, 3)
    assert choice["value"] != candidates[choice["name"]], "measured on other pictures"
    assert choice["low"] <= choice["value"] <= choice["high"]
    assert not (chosen_once.path / stage / "averages").exists()


def test_validation_during_training_leaves_the_judging_half_alone(chosen_once):
    """best.ckpt is chosen by the half that chooses, so its logged metric is that of the final choice."""
    checkpoints = chosen_once.checkpoints("diffusion")
    step = checkpoint_step(checkpoints / "best.ckpt")
    logged = validated(chosen_once)
    best = choice_of(chosen_once, "diffusion")["candidates"][f"the weights of step {step}"]
    assert best == pytest.approx(logged[step], rel=1e-5)
    assert min(logged.values()) == logged[step]


CHOOSES: dict[str, Any] = {"diffusion__ema": POWER, "diffusion__trainer__export": "best"}


@pytest.fixture(scope="module")
def chosen_in_diffusion(trained_once: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny run, its second stage trained anew with a choice."""
    folder = tmp_path_factory.mktemp("chosen-in-diffusion")
    begin_diffusion(trained_once, folder / "nano")
    return nano_run(folder, **CHOOSES)


@pytest.mark.parametrize("batch", [3, 8])
def test_a_choice_after_a_stop_in_training_is_the_same_to_the_bit(
    trained_run, chosen_in_diffusion, make_recipe, tmp_path, batch
):
    stopped, recipe = begin_diffusion(trained_run, tmp_path / "nano"), make_recipe(**CHOOSES)
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=False, batch=batch)
        with pytest.raises(Stop):
            train_run(recipe)
    train_run(recipe)
    assert_same_run(chosen_in_diffusion, stopped, "diffusion")


@pytest.mark.parametrize(
    ("where", "name", "after"), [(fitting, "choose_weights", True), (diffusion_stage, "drop_snapshots", False)]
)
def test_a_choice_that_was_stopped_is_made_once_more(trained_run, make_recipe, tmp_path, where, name, after):
    run = begin_diffusion(trained_run, tmp_path / "nano")
    recipe = make_recipe(diffusion__ema=POWER)
    with pytest.MonkeyPatch.context() as patch:
        stop_once(patch, where, name, after=after)
        with pytest.raises(Stop):
            train_run(recipe)
    assert sorted(path.name for path in (run.path / "diffusion" / "averages").iterdir()) == [
        "step=2.safetensors",
        "step=4.safetensors",
    ]
    train_run(recipe)
    assert choice_of(run, "diffusion")["candidates"]
    assert not (run.path / "diffusion" / "averages").exists()


def test_snapshots_stay_where_the_recipe_says_so(trained_run, make_recipe, tmp_path):
    run = begin_diffusion(trained_run, tmp_path / "nano")
    train_run(make_recipe(diffusion__ema=POWER | {"keep_snapshots": True}))
    assert len(list((run.path / "diffusion" / "averages").iterdir())) == 2


def test_the_best_checkpoint_leaves_where_it_is_better(trained_run, make_recipe, tmp_path, monkeypatch, capsys):
    """The measure is replaced, so that step 2 is best."""
    run = begin_diffusion(trained_run, tmp_path / "nano")
    start: list[torch.Tensor] = []
    build = diffusion_stage.build_lit_latent_diffusion

    def noting(*args: Any) -> LitLatentDiffusion:
        module = build(*args)
        start.append(module.unet.conv_in.weight.detach().clone())
        return module

    def way_from_the_start(module: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        moved = (module.unet.conv_in.weight.detach() - start[0]).abs().mean()
        return {"val/loss": moved.expand(len(batch["index"]))}

    monkeypatch.setattr(diffusion_stage, "build_lit_latent_diffusion", noting)
    monkeypatch.setattr(LitLatentDiffusion, "validation_values", way_from_the_start)
    train_run(make_recipe(diffusion__trainer__export="best"))
    choice = choice_of(run, "diffusion")
    assert (choice["name"], choice["step"]) == ("the weights of step 2", 2)
    assert "diffusion: the weights of step 2 leave this stage, the best of 2 by val/loss" in " ".join(
        capsys.readouterr().err.split()
    )
    kept = module_weights(run.checkpoints("diffusion") / "best.ckpt")["unet.conv_in.weight"]
    assert torch.equal(DiffusionPipeline.from_pretrained(run.pipeline).unet.conv_in.weight, kept)
    # What `export` takes by default is what the stage has left; the last weights by their name.
    assert export_checkpoint(run.path) == run.path / "pipeline-step=2"
    assert_same_weights(run.pipeline, run.path / "pipeline-step=2")
    last = export_checkpoint(run.path, checkpoint="last", output_dir=tmp_path / "last")
    newest = module_weights(run.checkpoints("diffusion") / "step=6.ckpt")["unet.conv_in.weight"]
    assert torch.equal(DiffusionPipeline.from_pretrained(last).unet.conv_in.weight, newest)
    assert (run.finished("diffusion") or {})["num_steps"] == 6


def test_an_unfinished_stage_exports_its_best_checkpoint_where_the_recipe_says_so(trained_run, make_recipe, tmp_path):
    run = begin_diffusion(trained_run, tmp_path / "nano")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=False, batch=9)
        with pytest.raises(Stop):
            train_run(make_recipe(diffusion__trainer__export="best"))
    assert export_checkpoint(run.path) == run.path / "pipeline-best"
    assert export_checkpoint(run.path, checkpoint="last") == run.path / "pipeline-step=4"


def test_lengths_that_cannot_be_put_together_are_refused_before_anything_is_trained(make_recipe, tmp_path):
    ema = {"type": "power", "lengths": [0.1, 0.01]}
    line = r"^diffusion.ema.lengths: 0.01 cannot be put together from 16 snapshots \(it would be \d+ % off"
    with pytest.raises(VaeLdmError, match=line.replace(" %", "%")):
        train_run(make_recipe(diffusion__ema=ema))
    assert not (tmp_path / "nano").exists()


def test_the_report_says_what_was_chosen_and_how_good_it_is_on_other_pictures(chosen_once, tmp_path):
    choice = Choice(**choice_of(chosen_once, "diffusion"))
    assert of_choice("diffusion", replace(choice, name=LAST)).reference is None, "it would be beside itself"
    choice = replace(choice, name="the averages of length 0.1")
    measurement = of_choice("diffusion", choice)
    assert (measurement.name, measurement.value, measurement.reference) == ("chosen_loss", choice.value, choice.last)
    assert meaning(measurement.name)
    metrics = {"measurements": [measurement.as_dict()], "chosen": {"diffusion": choice.in_words()}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    page = write_report(tmp_path).read_text()
    assert f"Exported weights: {choice.in_words()}." in page
    assert "chosen_loss" in page


def test_averages_of_an_autoencoder_are_what_its_folder_holds(make_recipe, tmp_path, monkeypatch):
    """The average that was chosen, folded as every autoencoder is, and not the last weights."""
    loaded: list[dict[str, torch.Tensor]] = []
    finish = autoencoder_stage.finish_autoencoder

    def noting(session: Any, autoencoder: AutoencoderKL) -> dict[str, object]:
        loaded.append({name: value.clone() for name, value in autoencoder.state_dict().items()})
        return finish(session, autoencoder)

    monkeypatch.setattr(autoencoder_stage, "finish_autoencoder", noting)
    train_run(make_recipe(diffusion=None, autoencoder__ema=POWER))
    run = RunFolder(tmp_path / "nano")
    choice = choice_of(run, "autoencoder")
    checkpoint = run.checkpoints("autoencoder") / "step=6.ckpt"
    stored = torch.load(checkpoint, weights_only=True)
    expected = {
        None: stored["current_model_state"],
        0.05: stored["short_average"],
        0.1: stored["state_dict"],
    }[choice["length"]]
    name = "decoder.conv_out.weight"
    torch.testing.assert_close(loaded[0][name], expected[f"autoencoder.{name}"], atol=1e-6, rtol=0)


def test_a_damaged_snapshot_is_left_out_with_a_line(trained_run, make_recipe, tmp_path, capsys):
    run = begin_diffusion(trained_run, tmp_path / "nano")
    choose = choosing.choose_weights

    def damaging(*args: Any, **kwargs: Any) -> Any:
        path = run.path / "diffusion" / "averages" / "step=2.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        return choose(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "choose_weights", damaging)
        train_run(make_recipe(diffusion__ema=POWER))
    said = " ".join(capsys.readouterr().err.split())
    assert "step=2.safetensors is damaged; averages are put together without it" in said
    assert len(choice_of(run, "diffusion")["candidates"]) == 3


def test_a_damaged_best_checkpoint_is_left_out_with_a_line(trained_run, make_recipe, tmp_path, capsys):
    run = begin_diffusion(trained_run, tmp_path / "nano")
    choose = choosing.choose_weights

    def damaging(*args: Any, **kwargs: Any) -> Any:
        best = run.checkpoints("diffusion") / "best.ckpt"
        best.write_bytes(best.read_bytes()[:-1])
        return choose(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "choose_weights", damaging)
        train_run(make_recipe(diffusion__trainer__export="best"))
    said = " ".join(capsys.readouterr().err.split())
    assert "best.ckpt is damaged; it is not among the weights to choose from" in said
    assert list(choice_of(run, "diffusion")["candidates"]) == [LAST]


def test_averages_of_a_lora_are_chosen_among_as_well(trained_run, make_recipe, tmp_path):
    """Its checkpoints and snapshots hold only what is trained."""
    source = str(trained_run.path)
    stage = {
        "from_pretrained": source,
        "train": "lora",
        "ema": POWER | {"keep_snapshots": True},
        "trainer": {"max_steps": 4, "batch_size": 2, "val_every_n_steps": 2, "export": "best"},
    }
    train_run(make_recipe(autoencoder={"from_pretrained": source, "train": "nothing"}, diffusion=stage))
    run = RunFolder(tmp_path / "nano")
    choice = choice_of(run, "diffusion")
    assert {LAST, "the averages of length 0.05", "the averages of length 0.1"} <= set(choice["candidates"])
    assert all(
        "lora" in name for _, name, _ in read_snapshot(run.path / "diffusion" / "averages" / "step=1.safetensors")
    )
    assert (run.lora / "pytorch_lora_weights.safetensors").is_file()


def test_a_dry_run_says_what_averages_take_and_refuses_what_the_run_would(trained_run, make_recipe, tmp_path, capsys):
    begin_diffusion(trained_run, tmp_path / "nano")
    train_run(make_recipe(diffusion__ema=POWER), dry_run=True)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(
        r"diffusion: two averages of the weights take [\d.]+ MiB more memory, and 2 snapshots of them", said
    )
    with pytest.raises(VaeLdmError, match="cannot be put together"):
        train_run(make_recipe(diffusion__ema=POWER | {"lengths": [0.01]}), dry_run=True)


# --- early stop -------------------------------------------------------------------------------------------------------


def all_the_same(module: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"val/loss": torch.ones(len(batch["index"]))}


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation finds every step as good as the one before."""
    monkeypatch.setattr(LitLatentDiffusion, "validation_values", all_the_same)


STOPPING: dict[str, Any] = {"diffusion__trainer__stop_after_no_gain_steps": 2, "diffusion__trainer__max_steps": 40}


@pytest.fixture(scope="module")
def ended_early(trained_once: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny run, its second stage trained anew until it finds no better step."""
    folder = tmp_path_factory.mktemp("ended-early")
    begin_diffusion(trained_once, folder / "nano")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LitLatentDiffusion, "validation_values", all_the_same)
        return nano_run(folder, **STOPPING)


@pytest.mark.usefixtures("stuck")
def test_a_stage_ends_when_nothing_gets_better_and_all_of_it_is_saved(trained_run, make_recipe, tmp_path, capsys):
    run = begin_diffusion(trained_run, tmp_path / "nano")
    train_run(make_recipe(**STOPPING, diffusion__trainer__checkpoint_every_n_steps=3))
    assert (run.finished("diffusion") or {})["num_steps"] == 4  # best at 2, not better at 4
    said = " ".join(capsys.readouterr().err.split())
    assert "diffusion: ended after step 4: val/loss has not been better for 2 steps" in said
    assert (run.checkpoints("diffusion") / "step=4.ckpt").is_file()
    assert list(validated(run)) == [2, 4]
    # The schedule is that of 40 steps.
    schedule = torch.load(run.checkpoints("diffusion") / "step=4.ckpt", weights_only=True)["lr_schedulers"][0]
    assert schedule["last_epoch"] == 4
    assert schedule["_last_lr"][0] == pytest.approx(1e-3 * 4 / 20)  # of 20 steps of warm-up


@pytest.mark.usefixtures("stuck")
@pytest.mark.parametrize("where", ["batch 3", "batch 6", "after the last step"])
def test_an_early_end_after_a_stop_is_the_same_to_the_bit(trained_run, ended_early, make_recipe, tmp_path, where):
    stopped, recipe = begin_diffusion(trained_run, tmp_path / "nano"), make_recipe(**STOPPING)
    with pytest.MonkeyPatch.context() as patch:
        if where.startswith("batch"):
            stop_at_batch(patch, manual=False, batch=int(where.split()[1]))
        else:
            stop_once(patch, diffusion_stage, "save_pipeline", after=False)
        with pytest.raises(Stop):
            train_run(recipe)
    train_run(recipe)
    assert_same_run(ended_early, stopped, "diffusion")


def test_a_moved_run_remembers_its_best(trained_run, make_recipe, tmp_path):
    """Lightning forgets it where the folder is another, and keeps a worse checkpoint for the best."""
    settings: dict[str, Any] = {"diffusion__trainer__keep_checkpoints": 9}
    begin_diffusion(trained_run, tmp_path / "here" / "nano")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=False, batch=5)
        with pytest.raises(Stop):
            train_run(make_recipe(tmp_path / "here", **settings))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for name in ("here", "there"):
        train_run(make_recipe(tmp_path / name, **settings))
    states = []
    for name in ("here", "there"):
        folder = RunFolder(tmp_path / name / "nano").checkpoints("diffusion")
        callbacks = torch.load(folder / "step=6.ckpt", weights_only=True)["callbacks"]
        (state,) = (value for key, value in callbacks.items() if key.startswith("BestCheckpoint"))
        states.append({Path(path).name: float(score) for path, score in state["best_k_models"].items()})
        assert Path(state["best_model_path"]).parent == folder
    assert states[0] == states[1]
    assert np.isfinite(list(states[0].values())).all()


# --- several processes ------------------------------------------------------------------------------------------------


def choose_on_this_process(*, settings: dict[str, Any]) -> list[tuple[dict[str, Any], str, int]]:
    """Each choice of a run, a digest of the weights that it left in this process, and the step it came after.

    Diffusion gets worse with each step; it is stopped on the way and goes on.
    """
    measured = LitLatentDiffusion.validation_values

    def worse(module: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {name: value + module.global_step for name, value in measured(module, batch).items()}

    recipe, choose, left = Recipe.model_validate(settings), choosing.choose_weights, []

    def noting(session: Any, stage: Any, module: Any, *args: Any, **kwargs: Any) -> Choice:
        choice = choose(session, stage, module, *args, **kwargs)
        left.append((asdict(choice), weights_digest(module), kwargs["last_step"]))
        return choice

    with nano_networks_in_place(), _no_evaluation(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "choose_weights", noting)
        patch.setattr(LitLatentDiffusion, "validation_values", worse)
        with pytest.MonkeyPatch.context() as stopping:
            stop_at_batch(stopping, manual=False, batch=9)
            with pytest.raises(Stop):
                train_run(recipe)
        train_run(recipe)
    return left


def test_processes_choose_the_same_and_end_after_the_same_step(make_recipe, tmp_path):
    settings: dict[str, Any] = {
        "data__num_validation": 9,
        "autoencoder__ema": POWER,
        "autoencoder__trainer__export": "best",
        "diffusion__ema": POWER,
        "diffusion__trainer__export": "best",
        "diffusion__trainer__max_steps": 12,
        "diffusion__trainer__stop_after_no_gain_steps": 4,
    }
    recipe = make_recipe(**settings)
    with two_processes() as two:
        first, second = two(choose_on_this_process, settings=recipe.model_dump())
    assert first == second
    (autoencoder, _, last), (diffusion, _, ended) = first
    assert (autoencoder["num_choosing"], autoencoder["num_judging"], last) == (5, 4, 6)
    assert ended == 6, "best at 2, not better at 4 and at 6"
    run = RunFolder(tmp_path / "nano")
    assert choice_of(run, "autoencoder") == autoencoder
    assert choice_of(run, "diffusion") == diffusion
