import json
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor

from tests.support.line import Line, Notes, X
from vae_ldm.errors import DataError, RunError
from vae_ldm.losses.reconstruction import l1_error
from vae_ldm.training.callbacks import RunCheckpoint
from vae_ldm.training.divergence import StopOnDivergence
from vae_ldm.training.weight_average import WarmedEma


class Explodes(Line):
    """Line whose loss, or only its gradient, stops being a number at batch `at`."""

    def __init__(self, at: int, *, gradient_only: bool) -> None:
        super().__init__()
        self.at, self.gradient_only = at, gradient_only

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx != self.at:
            return loss
        if self.gradient_only:
            return loss + ((self.weight - self.weight.detach()) ** 2).sum().sqrt()
        return loss * float("inf")


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("ema", [False, True])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_a_good_checkpoint(fit, tmp_path, gradient_only, ema):
    callbacks: list[Callback] = [StopOnDivergence(tmp_path, 4), RunCheckpoint(tmp_path, every_n_steps=1, keep=2)]
    callbacks += [WarmedEma(0.9)] if ema else []
    module = Explodes(at=5, gradient_only=gradient_only)
    with pytest.raises(RunError, match=r"NaN or infinite.*step=5\.ckpt.*learning rate") as caught:
        fit(module, X, max_steps=20, callbacks=callbacks, enable_checkpointing=True)
    assert "\n" not in str(caught.value)
    kept = sorted(tmp_path.glob("*.ckpt"))
    assert [path.name for path in kept] == ["step=4.ckpt", "step=5.ckpt"]
    for path in kept:
        checkpoint = torch.load(path, weights_only=True)
        for weights in (checkpoint["state_dict"], checkpoint.get("current_model_state", {})):
            assert all(bool(weight.isfinite().all()) for weight in weights.values())


def test_without_checkpoints_a_loss_that_is_no_number_is_noticed_within_n_steps(fit, tmp_path):
    notes = Notes()
    with pytest.raises(RunError, match="no checkpoint had been written yet"):
        fit(Explodes(at=1, gradient_only=False), X, max_steps=20, callbacks=[notes, StopOnDivergence(tmp_path, 4)])
    assert len(notes.weights) == 4


def test_not_a_number_in_manual_optimisation(fit, lit, batches, tmp_path):
    def nan(reconstructions: Tensor, images: Tensor) -> Tensor:
        return l1_error(reconstructions, images) * float("nan")

    with pytest.raises(RunError, match="NaN or infinite"):
        fit(lit(reconstruction=nan), batches, max_steps=9, callbacks=[StopOnDivergence(tmp_path, 3)])


def test_the_pictures_of_the_batch_are_named(fit, tmp_path):
    batches = [{"x": torch.tensor(1.0), "index": torch.tensor([2 * i, 2 * i + 1])} for i in range(3)]
    names = [f"{i}.jpg" for i in range(6)]
    stop = StopOnDivergence(tmp_path / "checkpoints", 4, names=names)
    with pytest.raises(RunError, match=r"diverged\.json"):
        fit(Explodes(at=1, gradient_only=False), batches, max_steps=20, callbacks=[stop])
    assert json.loads((tmp_path / "diverged.json").read_text())["pictures"] == ["2.jpg", "3.jpg"]


@pytest.mark.parametrize("before", [None, [{"step": 0, "pictures": ["x.jpg"]}]])  # a run of format 1 wrote a list
def test_the_pictures_of_a_skipped_step_are_named(fit, tmp_path, caplog, before):
    if before is not None:
        (tmp_path / "skipped.json").write_text(json.dumps(before))
    batches = [{"x": torch.tensor(1.0), "index": torch.tensor([2 * i, 2 * i + 1])} for i in range(3)]
    names = [f"{i}.jpg" for i in range(6)]
    stop = StopOnDivergence(tmp_path / "checkpoints", 4, names=names, on_nan="skip", max_skipped_steps=3)
    module = Explodes(at=1, gradient_only=True)
    fit(module, batches, max_steps=3, callbacks=[stop])
    skipped = json.loads((tmp_path / "skipped.json").read_text())["skipped"]
    assert skipped == [*(before or []), {"step": 1, "pictures": ["2.jpg", "3.jpg"]}]
    (told,) = [record.message for record in caplog.records if record.name.startswith("vae_ldm")]
    assert told == (
        "step 1: gradients are NaN or infinite; skipped (1 of 3); its pictures are in " + str(tmp_path / "skipped.json")
    )


@pytest.mark.parametrize("damaged", ["", "[1]", "{}", "null"])
def test_a_damaged_list_of_skipped_steps_is_one_line(fit, tmp_path, damaged):
    (tmp_path / "skipped.json").write_text(damaged)
    batch = {"x": torch.tensor(1.0), "index": torch.tensor([0, 1])}
    stop = StopOnDivergence(tmp_path / "checkpoints", 4, on_nan="skip")
    with pytest.raises(DataError, match=r"skipped\.json: is damaged .*; delete it and repeat the command"):
        fit(Explodes(at=0, gradient_only=True), [batch], max_steps=1, callbacks=[stop])


@pytest.mark.parametrize("gradient_only", [False, True])
def test_skipped_steps_change_nothing(fit, tmp_path, gradient_only):
    plain, notes = Notes(), Notes()
    fit(Line(), X[:1], max_steps=5, callbacks=[plain])
    stop = StopOnDivergence(tmp_path, 2, on_nan="skip")
    fit(Explodes(at=2, gradient_only=gradient_only), X[:1], max_steps=6, callbacks=[notes, stop])
    assert stop.num_skipped == 1
    assert torch.equal(notes.weights[2], notes.weights[1])
    del notes.weights[2]
    assert torch.equal(torch.stack(notes.weights), torch.stack(plain.weights))


def test_skipped_steps_change_nothing_in_manual_optimisation(fit, lit, batches, tmp_path):
    calls = []

    def sometimes_nan(reconstructions: Tensor, images: Tensor) -> Tensor:
        calls.append(1)
        return l1_error(reconstructions, images) * (float("nan") if len(calls) == 2 else 1.0)

    module = lit(reconstruction=sometimes_nan, gradient_clip_norm=1.0)
    stop = StopOnDivergence(tmp_path, 1, on_nan="skip")
    fit(module, batches, max_steps=4, callbacks=[stop])
    assert stop.num_skipped == 1
    assert all(bool(parameter.isfinite().all()) for parameter in module.parameters())


def test_too_many_skipped_steps_end_the_run(fit, lit, batches, tmp_path):
    def nan(reconstructions: Tensor, images: Tensor) -> Tensor:
        return l1_error(reconstructions, images) * float("nan")

    stop = StopOnDivergence(tmp_path, 1, on_nan="skip", max_skipped_steps=2)
    with pytest.raises(RunError, match="more than max_skipped_steps 2"):
        fit(lit(reconstruction=nan), batches, max_steps=9, callbacks=[stop])


def test_weights_without_gradients_are_no_good_checkpoint(fit, tmp_path):
    class Ends(Line):
        """A loss until step 4, and none from then on."""

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (float("nan") if batch_idx >= 4 else 1.0)

    callbacks: list[Callback] = [
        StopOnDivergence(tmp_path, 1, on_nan="skip", max_skipped_steps=3),
        RunCheckpoint(tmp_path, every_n_steps=1, keep=9),
    ]
    with pytest.raises(RunError, match=r"more than max_skipped_steps 3.*the last good checkpoint is .*step=3\.ckpt"):
        fit(Ends(), X[:1] * 9, max_steps=9, callbacks=callbacks, enable_checkpointing=True)
    assert max(int(path.stem[5:]) for path in tmp_path.glob("*.ckpt")) == 3


class Prescribed(Line):
    """Line whose loss is what the batch says."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return batch["x"] + 0 * self.weight.sum()


def losses(values: list[float]) -> list[dict[str, Tensor]]:
    return [{"x": torch.tensor(value)} for value in values]


def test_a_loss_that_has_exploded_stops_the_run_before_which_there_is_a_checkpoint(fit, tmp_path):
    callbacks: list[Callback] = [StopOnDivergence(tmp_path, 5), RunCheckpoint(tmp_path, every_n_steps=20, keep=9)]
    values = losses([1.0 + 0.1 * (i % 3) for i in range(90)] + [500.0] * 110)
    with pytest.raises(RunError, match=r"exploded.*since step 91.*step=80\.ckpt.*learning rate"):
        fit(Prescribed(), values, max_steps=200, callbacks=callbacks, enable_checkpointing=True)
    assert max(int(path.stem[5:]) for path in tmp_path.glob("*.ckpt")) == 80


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 100 + [500.0] * 40 + [1.0] * 60,
        [1.0] * 100 + [500.0, 1.0] * 50,
        [1.0] * 100 + [50.0] * 100,
        [500.0 * 0.9**i for i in range(200)],
        [-0.1, 0.1] * 50 + [5.0] * 100,
    ],
    ids=["a long spike", "many spikes", "fifty times", "falling", "about zero"],
)
def test_what_is_no_explosion(fit, tmp_path, values):
    trainer: Any = fit(Prescribed(), losses(values), max_steps=200, callbacks=[StopOnDivergence(tmp_path, 5)])
    assert trainer.global_step == 200
