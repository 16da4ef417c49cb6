import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tests.support.line import Line, Notes, X
from vae_ldm.training.callbacks import (
    BestCheckpoint,
    EachNSteps,
    PictureEachValidation,
    RunCheckpoint,
    SeedEachStep,
    StopAfterNoGain,
)
from vae_ldm.training.weight_average import WarmedEma

# --- the average ------------------------------------------------------------------------------------------------------


def expected_average(weights: list[Tensor], decay: float) -> Tensor:
    average = weights[0]
    for updates, weight in enumerate(weights[1:], start=1):
        share = min(decay, (1 + updates) / (10 + updates))
        average = share * average + (1 - share) * weight
    return average


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_average_against_a_hand_computation(fit, decay, accumulate):
    module, notes = Line(), Notes()
    fit(module, X, max_steps=9, callbacks=[notes, WarmedEma(decay)], accumulate_grad_batches=accumulate)
    assert len(notes.weights) == 9
    torch.testing.assert_close(module.weight.detach(), expected_average(notes.weights, decay))
    assert not torch.allclose(module.weight.detach(), notes.weights[-1])


def test_frozen_weights_take_no_part_in_the_average(fit, monkeypatch):
    class HalfFrozen(Line):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    seen: list[int] = []
    lerp = torch._foreach_lerp_
    monkeypatch.setattr(torch, "_foreach_lerp_", lambda *tensors: (seen.append(len(tensors[0])), lerp(*tensors)))
    module, notes = HalfFrozen(), Notes()
    fit(module, X, max_steps=4, callbacks=[notes, WarmedEma(0.9)])
    assert seen == [1, 1, 1], "the first step copies"
    torch.testing.assert_close(module.weight.detach(), expected_average(notes.weights, 0.9))
    assert torch.equal(module.frozen, torch.ones(3))


def test_average_is_what_is_validated_and_training_goes_on_unaveraged(fit):
    module, notes = Line(), Notes()
    settings: dict[str, Any] = {"validation": X[:1], "val_check_interval": 5, "check_val_every_n_epoch": None}
    trainer = fit(module, X, max_steps=5, callbacks=[notes, WarmedEma(0.9)], **settings)
    expected = expected_average(notes.weights, 0.9)
    assert trainer.callback_metrics["val/weight"].item() == pytest.approx(expected[0].item())

    plain, plain_notes = Line(), Notes()
    fit(plain, X, max_steps=8, callbacks=[plain_notes])
    averaged, averaged_notes = Line(), Notes()
    settings["val_check_interval"] = 3
    fit(averaged, X, max_steps=8, callbacks=[averaged_notes, WarmedEma(0.9)], **settings)
    assert torch.equal(torch.stack(plain_notes.weights), torch.stack(averaged_notes.weights))


@pytest.mark.parametrize("stopped_at", [1, 4, 8])
def test_average_across_a_resume(fit, tmp_path, stopped_at):
    def callbacks() -> list[Callback]:
        return [RunCheckpoint(tmp_path, every_n_steps=1, keep=100), WarmedEma(0.9)]

    whole = Line()
    fit(whole, X[:1], max_steps=8, callbacks=callbacks(), enable_checkpointing=True)
    resumed = Line()
    checkpoint = tmp_path / f"step={stopped_at}.ckpt"
    fit(resumed, X[:1], max_steps=8, callbacks=callbacks(), enable_checkpointing=True, ckpt_path=checkpoint)
    assert torch.equal(whole.weight, resumed.weight)


# --- randomness -------------------------------------------------------------------------------------------------------


def test_randomness_of_a_batch_follows_from_seed_and_batch_alone(fit):
    notes = []
    for seed, global_seed, max_steps in ((1, 5, 6), (1, 6, 3), (2, 5, 6)):
        torch.manual_seed(global_seed)
        notes.append(Notes())
        fit(Line(), X, max_steps=max_steps, callbacks=[SeedEachStep(seed), notes[-1]])
    first, shorter, other_seed = (note.randoms for note in notes)
    assert shorter == {batch: first[batch] for batch in range(3)}
    assert len(set(first.values()) | set(other_seed.values())) == 12


def test_ranks_draw_different_numbers(fit):
    drawn = set()
    for rank in (0, 1):
        callback, trainer = SeedEachStep(0), Trainer.__new__(Trainer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "global_rank", rank)
            for batch_idx in range(3):
                callback.on_train_batch_start(trainer, Line(), None, batch_idx)
                drawn.add(torch.rand(()).item())
    assert len(drawn) == 6


# --- on the way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_done_on_the_way_sees_the_average_of_that_step_and_leaves_no_trace(fit, accumulate):
    seen: dict[int, Tensor] = {}

    def act(module: LightningModule, step: int) -> None:
        seen[step] = module.weight.detach().clone()
        module.eval()
        torch.rand(5)

    settings: dict[str, Any] = {"validation": X[:1], "val_check_interval": 4, "check_val_every_n_epoch": None}
    plain, plain_notes = Line(), Notes()
    fit(plain, X, max_steps=8, callbacks=[plain_notes], accumulate_grad_batches=accumulate, **settings)
    module, notes = Line(), Notes()
    callbacks = [EachNSteps(3, act), EachNSteps(4, act), notes, WarmedEma(0.9)]
    fit(
        module,
        X,
        max_steps=8,
        callbacks=callbacks,
        enable_checkpointing=True,
        accumulate_grad_batches=accumulate,
        **settings,
    )
    assert list(seen) == [3, 4, 6]  # not 8: there the run itself ends
    for step, weight in seen.items():
        torch.testing.assert_close(weight, expected_average(notes.weights[:step], 0.9))
    assert torch.equal(torch.stack(notes.weights), torch.stack(plain_notes.weights))
    assert notes.randoms.keys() == plain_notes.randoms.keys()
    assert module.training


@pytest.mark.parametrize("first", [True, False])
def test_the_others_wait_until_the_first_process_has_acted(fit, monkeypatch, first):
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: first))
    seen: list[str] = []
    act = EachNSteps(2, lambda module, step: seen.append(f"acts {step}"), wait=lambda: seen.append("waits"))
    fit(Line(), X, max_steps=5, callbacks=[act], enable_checkpointing=True)
    assert seen == (["acts 2", "waits", "acts 4", "waits"] if first else ["waits", "waits"])


def test_without_an_average_the_weights_themselves_are_seen(fit):
    seen: list[Tensor] = []
    notes = Notes()
    act = EachNSteps(2, lambda module, step: seen.append(module.weight.detach().clone()))
    fit(Line(), X, max_steps=5, callbacks=[act, notes], enable_checkpointing=True)
    assert torch.equal(torch.stack(seen), torch.stack([notes.weights[1], notes.weights[3]]))


# --- checkpoints and pictures -----------------------------------------------------------------------------------------


def test_the_newest_checkpoints_are_kept(fit, tmp_path):
    callbacks = [RunCheckpoint(tmp_path, every_n_steps=2, keep=2)]
    fit(Line(), X, max_steps=9, callbacks=callbacks, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=8.ckpt", "step=9.ckpt"]  # the last, too


def test_the_best_checkpoint_is_kept_beside_them(fit, tmp_path):
    class UpAndDown(Line):
        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            self.log("val/psnr", torch.tensor({2: 1.0, 4: 3.0, 6: 2.0}[self.global_step]))

    callbacks = [BestCheckpoint(tmp_path, monitor="val/psnr", mode="max")]
    settings: dict[str, Any] = {"validation": X[:1], "val_check_interval": 2, "check_val_every_n_epoch": None}
    fit(UpAndDown(), X, max_steps=6, callbacks=callbacks, enable_checkpointing=True, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("ema", [False, True])
def test_pictures_of_each_validation_show_the_weights_that_were_validated(fit, tmp_path: Path, ema: bool):
    drawn: list[float] = []

    def draw(module: LightningModule) -> Image.Image:
        assert not torch.is_grad_enabled()
        drawn.append(copy.deepcopy(module.weight[0].item()))  # type: ignore[index, union-attr, operator]
        return Image.new("L", (2, 2))

    callbacks: list[Callback] = [PictureEachValidation(tmp_path / "grids", draw), *([WarmedEma(0.9)] if ema else [])]
    settings: dict[str, Any] = {"validation": X[:1], "val_check_interval": 3, "check_val_every_n_epoch": None}
    trainer = fit(Line(), X, max_steps=6, callbacks=callbacks, **settings)
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == ["step=000003.png", "step=000006.png"]
    assert drawn[-1] == pytest.approx(trainer.callback_metrics["val/weight"].item())


# --- an early end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "values"), [("min", [3.0, 2.0]), ("max", [2.0, 3.0])])
def test_a_first_metric_that_is_no_number_does_not_stay_the_best(mode, values):
    stop = StopAfterNoGain(2, monitor="val/x", mode=mode)
    for step, value in enumerate([float("nan"), *values], start=1):
        trainer: Any = SimpleNamespace(
            callback_metrics={"val/x": value}, world_size=1, global_step=step, should_stop=False
        )
        stop.on_validation_end(trainer, Line())
        assert not trainer.should_stop
    assert (stop.best, stop.best_step) == (values[-1], 3)
