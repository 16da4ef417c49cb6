"""Two real processes against one: the same numbers, and nothing that hangs."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from accelerate.utils import DistributedType
from pytorch_lightning.plugins import MixedPrecision, Precision

from tests.processes import Processes, two_processes
from tests.support.training_states import assert_same, difference
from tests.training import strategy_scenarios as scenarios
from vae_ldm.assembly import build_optimizer
from vae_ldm.errors import VaeLdmError
from vae_ldm.recipe import parts
from vae_ldm.training.accelerate_strategy import AccelerateStrategy
from vae_ldm.training.engine_plugins import engine_precision

pytestmark = pytest.mark.filterwarnings("ignore")
MUON = build_optimizer(parts.Muon(warmup_steps=2))


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    with two_processes() as processes:
        yield processes


# --- one process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"ema": True}],
    ids=str,
)
def test_one_process_is_lightnings_own_to_the_bit(settings):
    own = scenarios.fit_numbers(batch_size=8, strategy="auto", **settings)
    assert_same(own, scenarios.fit_numbers(batch_size=8, **settings), 0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_one_process_with_two_optimizers_is_lightnings_own_to_the_bit(precision):
    own = scenarios.fit_autoencoder(batch_size=4, strategy="auto", ema=True, precision=precision)
    assert_same(own, scenarios.fit_autoencoder(batch_size=4, ema=True, precision=precision), 0)


# --- two against one --------------------------------------------------------------------------------------------------

# `seen` is a buffer that each process counts up by itself: the first process's is the one that counts.
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "plain": (scenarios.fit_numbers, {}, {}),
    "shuffled": (scenarios.fit_numbers, {"shuffle": True}, {}),
    "ema": (scenarios.fit_numbers, {"ema": True}, {}),
    "muon": (scenarios.fit_numbers, {"muon": True, "ema": True, "gradient_clip_val": 0.05}, {}),
    "muon, accumulated": (scenarios.fit_numbers, {"muon": True}, {"accumulate_grad_batches": 2}),
    "accumulated": (scenarios.fit_numbers, {}, {"accumulate_grad_batches": 2}),
    "clipped": (scenarios.fit_numbers, {"gradient_clip_val": 0.05}, {}),
    "workers": (scenarios.fit_numbers, {"num_workers": 2}, {}),
    "gan": (scenarios.fit_autoencoder, {"adam": False, "use_adaptive_weight": False}, {}),
    "gan, adaptive weight, ema": (scenarios.fit_autoencoder, {"adam": False, "ema": True}, {}),
    # The adaptive weight is one a batch, and so another for another batch.
    "gan, accumulated": (
        scenarios.fit_autoencoder,
        {"adam": False, "use_adaptive_weight": False},
        {"accumulate_grad_batches": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_of_half_the_batch_are_one_of_the_whole(two, case):
    fit, common, for_two = CASES[case]
    batch = 8
    share = batch // 2 // for_two.get("accumulate_grad_batches", 1)
    one = fit(batch_size=batch, **common)
    first, second = two(fit, batch_size=share, **common, **for_two)
    assert difference(first, second) == 0
    assert first["metrics"] == second["metrics"]
    # What is logged of training is of the last batch, which is a part of it where it was accumulated.
    assert_same(one, first, 1e-5, ignore="seen", only="val" if case == "gan, accumulated" else "")


def test_accumulated_steps_are_those_of_the_larger_batch():
    one = scenarios.fit_numbers(batch_size=8)
    assert_same(one, scenarios.fit_numbers(batch_size=4, accumulate_grad_batches=2), 1e-5, ignore="seen")


def test_bf16_on_two_processes(two):
    one = scenarios.fit_autoencoder(batch_size=8, precision="bf16-mixed", adam=False)
    first, second = two(scenarios.fit_autoencoder, batch_size=4, precision="bf16-mixed", adam=False)
    assert difference(first, second) == 0
    assert difference(one, first) < 2e-3


def test_shuffled_data_are_shared_out_without_gap_or_repeat(two):
    orders = [state["order"] for state in two(scenarios.fit_numbers, batch_size=4, shuffle=True, max_epochs=1)]
    one = scenarios.fit_numbers(batch_size=8, shuffle=True, max_epochs=1)["order"]
    assert len(one) == 48
    for orders_of in zip(*(chunks(order, 4) for order in orders), chunks(one, 8), strict=True):
        first, second, whole = orders_of
        assert first + second == whole
    twice = scenarios.fit_numbers(batch_size=8, shuffle=True)["order"]
    assert twice[:48] == one
    assert twice[48:] != one


def chunks(items: list[float], size: int) -> list[list[float]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def test_each_picture_counts_once_in_validation_test_and_prediction(two):
    one = scenarios.validate_test_predict()
    first, second = two(scenarios.validate_test_predict)
    for found in (first, second):
        assert found["val"] == pytest.approx(one["val"], rel=1e-6)
        assert found["test"] == pytest.approx(one["test"], rel=1e-6)
    assert sorted(first["predicted"] + second["predicted"]) == sorted(one["predicted"])
    assert len(first["predicted"]) == 8


# --- stopped and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "settings"),
    [
        (scenarios.fit_numbers, {"batch_size": 4, "shuffle": True}),
        (scenarios.fit_numbers, {"batch_size": 4, "shuffle": True, "num_workers": 2, "ema": True}),
        (scenarios.fit_autoencoder, {"batch_size": 4, "shuffle": True, "steps": 6}),
        (scenarios.fit_autoencoder, {"batch_size": 4, "shuffle": True, "steps": 6, "optimizer": MUON, "ema": True}),
    ],
    ids=["numbers", "numbers, workers, ema", "gan", "gan, muon, ema"],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_resume_in_mid_epoch_is_exact(two, tmp_path: Path, fit, settings, processes):
    run = two if processes == 2 else lambda function, **kwargs: [function(**kwargs)]
    checkpoint = str(tmp_path / "here.ckpt")
    whole = run(fit, **settings, save_to=checkpoint, save_at=3)
    resumed = run(fit, **settings, checkpoint=checkpoint)
    for one, other in zip(whole, resumed, strict=True):
        assert_same(one, other, 0)


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_resume_on_another_number_of_processes(two, tmp_path, first, then):
    runs = {1: lambda function, **kwargs: [function(**kwargs)], 2: two}
    settings = {"steps": 6, "ema": True, "adam": False}
    checkpoint = str(tmp_path / "here.ckpt")
    whole = runs[first](scenarios.fit_autoencoder, batch_size=8 // first, save_to=checkpoint, save_at=3, **settings)[0]
    resumed = runs[then](scenarios.fit_autoencoder, batch_size=8 // then, checkpoint=checkpoint, **settings)[0]
    assert_same(whole, resumed, 1e-5)


# --- not a number -----------------------------------------------------------------------------------------------------


def test_all_stop_where_the_loss_of_one_is_no_number_and_its_pictures_are_named(two, tmp_path):
    for said in two(scenarios.diverge, folder=str(tmp_path)):
        assert "NaN or infinite" in said
    # Its third batch of four, of batches dealt out in turn: the sixth of all.
    pictures = json.loads((tmp_path / "diverged.json").read_text())["pictures"]
    assert pictures == ["20.jpg", "21.jpg", "22.jpg", "23.jpg"]


def test_all_skip_the_step_that_one_cannot_take(two, tmp_path):
    first, second = two(scenarios.skip, folder=str(tmp_path))
    assert first["skipped"] == second["skipped"] == 1
    assert difference(first, second) == 0
    assert all(bool(value.isfinite().all()) for value in first["weights"].values())


# --- the small things -------------------------------------------------------------------------------------------------


def test_collectives(two):
    first, second = two(scenarios.collectives)
    assert first["ops"] == second["ops"] == {"mean": 1.5, "sum": 3, "min": 1, "max": 2, "product": 2}
    assert (first["unchanged"], second["unchanged"]) == (1, 2)
    assert first["any"]
    assert second["any"]
    assert not first["all"]
    assert first["said"] == second["said"] == {"from": 0}
    assert first["gathered"] == second["gathered"] == [1, 2]
    assert first["ranks"] == (0, 0, 2, True)
    assert second["ranks"] == (1, 1, 2, False)


def test_each_process_draws_noise_of_its_own(two):
    first, second = two(scenarios.noise_after_seed)
    assert first != second


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sampler", "leave the DistributedSampler out"),
        ("list", "DataLoader"),
        ("whole batches", "num_replicas"),
        ("few", "lower the batch size"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_a_line(two, name, line):
    for said in two(scenarios.refusal, name=name):
        assert line in said
        assert "\n" not in said


def test_it_is_registered_by_name():
    trainer = scenarios.trainer()
    assert isinstance(trainer.strategy, AccelerateStrategy)
    assert pl.strategies.StrategyRegistry.available_strategies().count("accelerate") == 1


@pytest.mark.parametrize(
    ("engine", "lightning"), [("cpu", "cpu"), ("cpu:0", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_a_device_is_named_as_lightning_names_it(engine, lightning):
    state = SimpleNamespace(device=torch.device(engine), distributed_type=DistributedType.NO)
    assert AccelerateStrategy(engine=state).root_device == torch.device(lightning)


@pytest.mark.parametrize(
    ("launcher", "asked", "result"),
    [
        ("no", Precision(), "32-true"),
        ("bf16", Precision(), "bf16-mixed"),
        ("no", MixedPrecision("bf16-mixed", "cpu"), "bf16-mixed"),
        ("bf16", MixedPrecision("bf16-mixed", "cpu"), "bf16-mixed"),
        ("fp16", MixedPrecision("bf16-mixed", "cpu"), "leave one out"),
        ("fp16", Precision(), "no loss scaler"),
        ("fp8", Precision(), "not supported"),
    ],
)
def test_precision_is_what_launcher_and_trainer_say_together(monkeypatch, launcher, asked, result):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    try:
        found = str(engine_precision(asked, torch.device("cpu")).precision)
    except VaeLdmError as error:
        found = str(error)
    assert result in found


# --- FSDP2, forced onto the CPU ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded() -> Iterator[Processes]:
    with two_processes() as processes:
        yield processes


@pytest.mark.parametrize(
    "settings", [{}, {"gradient_clip_val": 0.05}, {"precision": "bf16-mixed"}], ids=["plain", "clipped", "bf16"]
)
def test_sharded_weights_are_those_of_one_process(sharded, settings):
    one = scenarios.fit_numbers(batch_size=8, **settings)
    first, second = sharded(scenarios.fit_sharded, batch_size=4, **settings)
    assert difference(first, second) == 0
    tolerance = 2e-3 if "precision" in settings else 1e-5
    assert_same(one, first, tolerance, ignore="seen")


def test_sharded_accumulation_is_the_larger_batch(sharded):
    one = scenarios.fit_numbers(batch_size=8)
    first, _ = sharded(scenarios.fit_sharded, batch_size=2, accumulate_grad_batches=2)
    assert_same(one, first, 1e-5, ignore="seen")


def test_a_sharded_checkpoint_is_an_ordinary_one(sharded, tmp_path):
    checkpoint = str(tmp_path / "here.ckpt")
    whole = sharded(scenarios.fit_sharded, batch_size=4, save_to=checkpoint, save_at=3)
    resumed = sharded(scenarios.fit_sharded, batch_size=4, checkpoint=checkpoint)
    for one, other in zip(whole, resumed, strict=True):
        assert_same(one, other, 0, ignore="seen")
    alone = scenarios.fit_numbers(batch_size=8, checkpoint=checkpoint)
    assert_same(whole[0], alone, 1e-5, ignore="seen")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("manual", "use multi-GPU"),
        ("ema", "set ema: null"),
        ("power", "set ema: null"),
        ("muon", "set optimizer.type: adamw"),
    ],
)
def test_what_sharding_cannot_do_is_refused_with_a_line(sharded, name, line):
    for said in sharded(scenarios.refused_when_sharded, name=name):
        assert line in said
