"""The strategy on a GPU, in processes that see it: the rest of the tests are the CPU's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Processes
from tests.run import gpu_scenarios
from tests.support.training_states import assert_same, difference
from tests.training import strategy_scenarios as scenarios
from tests.training.strategy_scenarios import State

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not list(Path("/dev").glob("nvidia[0-9]*")), reason="no NVIDIA GPU"),
]

# What `accelerate launch` puts into the environment besides the places of the processes.
ENGINES = {
    "alone": {},
    "ddp": {},
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    },
    "zero1": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
}
WRAPPERS = {"alone": "Numbers", "ddp": "DistributedDataParallel", "fsdp2": "FSDPNumbers"}
CLIPPED = {"gradient_clip_val": 0.05, "accumulate_grad_batches": 2}

Gpu = Callable[..., State]


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Processes]]:
    started = {
        name: Processes(1, {"CUDA_VISIBLE_DEVICES": "0"} | engine, by_launcher=name != "alone")
        for name, engine in ENGINES.items()
    }
    yield started
    for process in started.values():
        process.stop()


@pytest.fixture
def on(engines: dict[str, Processes]) -> Gpu:
    """`on("fsdp2", function, **settings)`: what it returned in a process that has the GPU and this engine."""

    def run(engine: str, function: Any, **settings: Any) -> Any:
        if engine.startswith("zero"):
            pytest.importorskip("deepspeed")
        if engine == "ddp":
            function, settings = scenarios.wrapped, {"fit": function, **settings}
        return engines[engine](function, **settings)[0]

    return run


@pytest.mark.parametrize("settings", [{}, CLIPPED, {"ema": True}], ids=["plain", "clipped", "ema"])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_reaches_the_weights_of_a_cpu(on: Gpu, engine: str, settings: dict[str, Any]) -> None:
    if engine == "fsdp2" and "ema" in settings:
        pytest.skip("refused with a line")
    found = on(engine, scenarios.fit_numbers, batch_size=4, shuffle=True, **settings)
    assert found["device"] == "cuda"
    assert found["wrapper"] == WRAPPERS.get(engine, "DeepSpeedEngine")
    assert_same(scenarios.fit_numbers(batch_size=4, shuffle=True, **settings), found, 1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_in_half_precision(on: Gpu, engine: str, precision: str) -> None:
    if engine.startswith("zero") and precision == "16-mixed":
        pytest.skip("refused with a line")
    found = on(engine, scenarios.fit_numbers, batch_size=4, precision=precision, **CLIPPED)
    whole = scenarios.fit_numbers(batch_size=4, **CLIPPED)
    assert 0 < difference(whole, found) < 2e-2
    assert (found["scale"] > 1) == (precision == "16-mixed")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_one_gpu_is_lightnings_own_to_the_bit(on: Gpu, precision: str) -> None:
    settings = {"batch_size": 4, "precision": precision, **CLIPPED}
    assert_same(
        on("alone", scenarios.fit_numbers, strategy="auto", **settings),
        on("alone", scenarios.fit_numbers, **settings),
        0,
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("engine", ["alone", "ddp"])
def test_two_optimizers(on: Gpu, engine: str, precision: str) -> None:
    settings = {"batch_size": 4, "adam": False, "ema": True}
    found = on(engine, scenarios.fit_autoencoder, precision=precision, **settings)
    assert difference(scenarios.fit_autoencoder(**settings), found) < (1e-3 if precision == "32-true" else 2e-2)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_fit_ends_in_the_same_weights(on: Gpu, engine: str, precision: str, tmp_path: Path) -> None:
    """The loss scaler as well, which begins at 65536 and is halved by the first steps."""
    if engine.startswith("zero") and precision == "16-mixed":
        pytest.skip("refused with a line")
    settings = {"batch_size": 4, "precision": precision, "shuffle": True, "num_workers": 1}
    checkpoint = str(tmp_path / "here.ckpt")
    whole = on(engine, scenarios.fit_numbers, save_to=checkpoint, save_at=7, **settings)
    resumed = on(engine, scenarios.fit_numbers, checkpoint=checkpoint, **settings)
    assert_same(whole, resumed, 0)
    assert whole["scale"] == resumed["scale"]


@pytest.mark.parametrize("engine", ["alone", "ddp", "fsdp2"])
def test_validation_test_and_prediction(on: Gpu, engine: str) -> None:
    one, found = scenarios.validate_test_predict(), on(engine, scenarios.validate_test_predict)
    assert found["val"] == pytest.approx(one["val"], rel=1e-5)
    assert found["test"] == pytest.approx(one["test"], rel=1e-5)
    assert found["predicted"] == one["predicted"]


@pytest.mark.parametrize("precision", [None, "32-true"])
def test_a_whole_run_that_is_stopped_ends_as_if_it_had_not_been(on: Gpu, tmp_path: Path, precision: str | None) -> None:
    found = on("alone", gpu_scenarios.stopped_and_not, folder=str(tmp_path), precision=precision)
    assert found["files"]
    assert max(found["differences"].values()) == 0, found["differences"]
