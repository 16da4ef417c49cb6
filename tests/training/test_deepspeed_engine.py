"""DeepSpeed's ZeRO: what is refused, everywhere; two processes against one, where it is installed."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.processes import Processes, two_processes
from tests.support.training_states import assert_same, difference
from tests.training import strategy_scenarios as scenarios
from vae_ldm.errors import VaeLdmError
from vae_ldm.training.deepspeed_engine import Zero
from vae_ldm.training.divergence import StopOnDivergence
from vae_ldm.training.engine import sharding_of

pytestmark = pytest.mark.filterwarnings("ignore")


def zero(stage: int = 2, **config: Any) -> Zero:
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": stage}, **config})
    return Zero(SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)))


def check(engine: Zero, module: Any = None, **settings: Any) -> None:
    trainer = scenarios.trainer(strategy="auto", **settings)
    trainer.strategy.connect(module or scenarios.Numbers())
    engine.check(trainer)


def test_what_the_trainer_decides_may_be_left_to_it():
    check(zero(1, gradient_clipping="auto", bf16={"enabled": False}), gradient_clip_val=0.5)
    check(zero(2, gradient_clipping=0.5, zero_allow_untested_optimizer=True), gradient_clip_val=0.5)


@pytest.mark.parametrize(
    ("engine", "settings", "line"),
    [
        (zero(), {"module": scenarios.lit_autoencoder()}, "use multi-GPU"),
        (zero(3), {}, "ZeRO stage 3 is not supported"),
        (zero(0), {}, "ZeRO stage 0 is not supported"),
        (zero(gradient_clipping=1.0), {"gradient_clip_val": 0.5}, "gradient_clipping is 1.0"),
        (zero(gradient_clipping=1.0), {}, "gradient_clipping is 1.0"),
        (zero(bf16={"enabled": True}), {}, "has bf16, which the Trainer decides"),
        (zero(optimizer={"type": "Adam"}, scheduler={}), {}, "has optimizer, scheduler, which"),
        (zero(), {"gradient_clip_val": 1, "gradient_clip_algorithm": "value"}, "by norm only"),
        (zero(), {"callbacks": [StopOnDivergence(Path("x"), 1, on_nan="skip")]}, "set on_nan: stop"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_come_out_wrong_is_refused_with_a_line(engine, settings, line):
    with pytest.raises(VaeLdmError, match=line) as error:
        check(engine, **settings)
    assert "\n" not in str(error.value)


def test_offloading_is_refused_with_a_line():
    engine = zero()
    engine._config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    with pytest.raises(VaeLdmError, match="set its device to none"):
        check(engine)


def test_an_optimizer_that_looks_at_whole_weights_is_refused_with_a_line():
    module = scenarios.Numbers()
    with pytest.raises(VaeLdmError, match="Adam, AdamW or SGD"):
        zero().wrap(module, [torch.optim.Adafactor(module.parameters())], None)


def test_muon_is_refused_by_name():
    module = scenarios.Numbers(muon=True)
    with pytest.raises(VaeLdmError, match=r"Muon makes whole matrices .* set optimizer.type: adamw"):
        zero().wrap(module, [module.configure_optimizers()["optimizer"]], None)


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_what_accelerate_drops_on_a_cpu_without_a_word_is_refused_with_a_line(monkeypatch, name):
    from accelerate.utils import DistributedType

    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(VaeLdmError, match=f"no {name} for the CPU"):
        sharding_of(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, device=torch.device("cpu")))


def test_accelerates_deepspeed_is_taken():
    from accelerate.utils import DistributedType

    engine = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, device=torch.device("cpu"))
    assert isinstance(sharding_of(engine), Zero)


# --- where it is installed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    pytest.importorskip("deepspeed", reason="DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed")
    with two_processes() as processes:
        yield processes


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    ("common", "for_two"),
    [
        ({}, {}),
        ({"gradient_clip_val": 0.05}, {}),
        ({}, {"accumulate_grad_batches": 2}),
        ({"ema": True}, {}),
        ({"precision": "bf16-mixed"}, {}),
    ],
    ids=["plain", "clipped", "accumulated", "ema", "bf16"],
)
def test_two_processes_are_one(two, stage, common, for_two):
    one = scenarios.fit_numbers(batch_size=8, **common)
    share = 4 // for_two.get("accumulate_grad_batches", 1)
    first, second = two(scenarios.fit_zero, stage=stage, batch_size=share, **common, **for_two)
    assert difference(first, second) == 0
    assert_same(one, first, 2e-3 if "precision" in common else 1e-5, ignore="seen")


@pytest.mark.parametrize("stage", [1, 2])
def test_a_checkpoint_is_an_ordinary_one(two, tmp_path, stage):
    checkpoint, settings = str(tmp_path / "here.ckpt"), {"ema": True, "shuffle": True}
    whole = two(scenarios.fit_zero, stage=stage, batch_size=4, save_to=checkpoint, save_at=3, **settings)
    resumed = two(scenarios.fit_zero, stage=stage, batch_size=4, checkpoint=checkpoint, **settings)
    for one, other in zip(whole, resumed, strict=True):
        assert_same(one, other, 0, ignore="seen")
    alone = scenarios.fit_numbers(batch_size=8, checkpoint=checkpoint, **settings)
    assert_same(whole[0], alone, 1e-5, ignore="seen")
    scenarios.fit_numbers(batch_size=8, save_to=checkpoint, save_at=3, **settings)
    back = two(scenarios.fit_zero, stage=stage, batch_size=4, checkpoint=checkpoint, **settings)
    assert_same(whole[0], back[0], 1e-5, ignore="seen")
