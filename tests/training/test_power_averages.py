"""An average of any length from snapshots of two (Karras 2023, EDM2, section 3)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

from tests.support.line import Line, Notes, X
from vae_ldm.training.callbacks import RunCheckpoint
from vae_ldm.training.power_averages import (
    Kept,
    PowerAverages,
    combination,
    decay_after,
    gamma_of,
    is_whole_snapshot,
    read_snapshot,
    snapshot_steps,
    snapshots_in,
    worst_length,
)

LENGTHS = (0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2)


def directly(weights: list[Tensor], length: float) -> Tensor:
    """The average as algorithm 1 keeps it, in double precision."""
    average = weights[0].double()
    for updates, weight in enumerate(weights[1:], start=1):
        decay = decay_after(updates, length)
        average = decay * average + (1 - decay) * weight.double()
    return average


def test_powers_of_the_lengths_in_the_paper():
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_power_gives_the_relative_standard_deviation(length):
    gamma = gamma_of(length)
    time = (np.arange(100_000) + 0.5) / 100_000
    profile = time**gamma / (time**gamma).sum()
    mean = (profile * time).sum()
    assert np.sqrt((profile * (time - mean) ** 2).sum()) == pytest.approx(length, abs=1e-4)


@pytest.mark.parametrize("length", [0.05, 0.1])
def test_an_average_that_is_kept_is_itself(length):
    kept = [Kept(step, each) for step in (50, 75, 100) for each in (0.05, 0.1)]
    factors, residual = combination(kept, 100, length)
    expected = [float(one == Kept(100, length)) for one in kept]
    np.testing.assert_allclose(factors, expected, atol=1e-6)
    assert residual < 1e-6


def test_more_snapshots_come_nearer_and_the_default_reaches_all_default_lengths():
    residuals = [worst_length(LENGTHS, 2000, number)[1] for number in (4, 8, 16, 32)]
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[2] < 0.05
    assert worst_length((0.005, 0.1), 2000, 16)[0] == 0.005


@pytest.mark.parametrize(("max_steps", "number", "steps"), [(8, 4, [2, 4, 6, 8]), (3, 16, [1, 2, 3]), (1, 2, [1])])
def test_snapshots_are_evenly_spread(max_steps, number, steps):
    assert snapshot_steps(max_steps, number) == steps


MAX_STEPS = 400


def trained(fit, folder: Path, *, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[PowerAverages, Notes]:
    notes = Notes()
    averages = PowerAverages(folder, snapshot_steps(MAX_STEPS, 16), dtype=dtype)
    fit(settings.pop("module", Line()), X, max_steps=MAX_STEPS, callbacks=[notes, averages], **settings)
    return averages, notes


class NoisyLine(Line):
    """A walk that never comes to rest, so that averages of different lengths differ."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        noise = torch.randn(2, generator=torch.Generator().manual_seed(batch_idx))
        return super().training_step(batch, batch_idx) + 0.4 * (self.weight * noise).sum()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_reconstructed_averages_are_those_computed_directly(fit, tmp_path, accumulate):
    averages, notes = trained(fit, tmp_path, module=NoisyLine(), accumulate_grad_batches=accumulate)
    assert len(notes.weights) == MAX_STEPS
    snapshots = snapshots_in(tmp_path, before=MAX_STEPS)
    assert list(snapshots) == snapshot_steps(MAX_STEPS, 16)[:-1]
    found = {length: averages.average(length, snapshots)["weight"].double() for length in LENGTHS}
    for length, average in found.items():
        difference = (average - directly(notes.weights, length)).abs().max()
        assert difference < (1e-6 if length in (0.05, 0.1) else 1e-3), length
    apart = torch.stack([*found.values(), notes.weights[-1].double()])
    assert torch.pdist(apart).min() > 2e-3, "else the test says nothing"


def test_float16_costs_no_more_than_its_rounding(fit, tmp_path):
    averages, notes = trained(fit, tmp_path, module=NoisyLine(), dtype=torch.float16)
    for length in LENGTHS:
        average = averages.average(length, snapshots_in(tmp_path))["weight"]
        torch.testing.assert_close(average.double(), directly(notes.weights, length), atol=3e-3, rtol=0)


def test_numbers_beyond_float16_stay_as_they_are(fit, tmp_path):
    module = Line()
    with torch.no_grad():
        module.weight.mul_(0).add_(1e9)
    averages = PowerAverages(tmp_path, [1, 2], dtype=torch.float16)
    fit(module, X, max_steps=2, callbacks=[averages])
    ((_, _, value), _) = read_snapshot(tmp_path / "step=1.safetensors")
    assert value.dtype == torch.float32
    assert value.min() > 1e8


def test_the_module_keeps_its_last_weights_and_the_longer_average_is_validated(fit, tmp_path):
    module = Line()
    settings: dict[str, Any] = {"validation": X[:1], "val_check_interval": 200, "check_val_every_n_epoch": None}
    notes = Notes()
    averages = PowerAverages(tmp_path, [], dtype=torch.float32)
    trainer = fit(module, X, max_steps=200, callbacks=[notes, averages], **settings)
    assert torch.equal(module.weight, notes.weights[-1])
    assert trainer.callback_metrics["val/weight"].item() == pytest.approx(directly(notes.weights, 0.1)[0].item())


@pytest.mark.parametrize("stopped_at", [1, 5, 8])
def test_averages_across_a_resume_to_the_bit(fit, tmp_path, stopped_at):
    def callbacks(folder: Path) -> list[Callback]:
        averages = PowerAverages(folder, [2, 4, 6, 8], dtype=torch.float16)
        return [RunCheckpoint(tmp_path / "checkpoints", every_n_steps=1, keep=100), averages]

    whole, resumed = callbacks(tmp_path / "whole"), callbacks(tmp_path / "resumed")
    fit(NoisyLine(), X[:1], max_steps=8, callbacks=whole, enable_checkpointing=True)
    checkpoint = tmp_path / "checkpoints" / f"step={stopped_at}.ckpt"
    fit(NoisyLine(), X[:1], max_steps=8, callbacks=resumed, enable_checkpointing=True, ckpt_path=checkpoint)
    for step, path in snapshots_in(tmp_path / "resumed").items():
        assert path.read_bytes() == (tmp_path / "whole" / f"step={step}.safetensors").read_bytes()
    assert len(snapshots_in(tmp_path / "resumed")) == {1: 3, 5: 1, 8: 0}[stopped_at]
    stored = snapshots_in(tmp_path / "whole")
    left, right = (each[1].average(0.075, stored)["weight"] for each in (whole, resumed))
    assert torch.equal(left, right)


class WithCritic(Line):
    """A line and something beside it that no export holds."""

    not_exported = ("critic",)

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(1, 1)


def test_what_no_export_holds_is_in_no_snapshot_and_those_of_before_are_read(fit, tmp_path, monkeypatch):
    """Snapshots and checkpoints of before held averages of the discriminator too."""
    kept: list[PowerAverages] = []
    for name, left_out in (("before", ()), ("now", ("critic",))):
        monkeypatch.setattr(WithCritic, "not_exported", left_out)
        averages = PowerAverages(tmp_path / name, [2, 4], dtype=torch.float32)
        checkpoints = RunCheckpoint(tmp_path / name, every_n_steps=2, keep=9)
        fit(WithCritic(), X, max_steps=4, callbacks=[checkpoints, averages], enable_checkpointing=True)
        kept.append(averages)
    names = [{name for _, name, _ in read_snapshot(tmp_path / run / "step=2.safetensors")} for run in ("before", "now")]
    assert names == [{"weight", "critic.weight", "critic.bias"}, {"weight"}]
    resumed = PowerAverages(tmp_path / "now", [2, 4], dtype=torch.float32)
    fit(WithCritic(), X, max_steps=4, callbacks=[resumed], ckpt_path=tmp_path / "before" / "step=2.ckpt")
    for one in (resumed, kept[1]):
        average = one.average(0.07, snapshots_in(tmp_path / "before"))
        assert average.keys() == {"weight"}
        assert torch.equal(average["weight"], kept[0].average(0.07, snapshots_in(tmp_path / "before"))["weight"])


def test_a_damaged_snapshot_is_noticed(fit, tmp_path):
    trained(fit, tmp_path)
    path = tmp_path / "step=200.safetensors"
    assert is_whole_snapshot(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not is_whole_snapshot(path)
    path.write_bytes(content[:10])
    assert not is_whole_snapshot(path)


def test_no_more_snapshots_than_asked_for_lie_on_the_disk(fit, tmp_path):
    for max_steps in (8, 12):
        averages = PowerAverages(tmp_path, snapshot_steps(max_steps, 4), dtype=torch.float16)
        fit(Line(), X, max_steps=max_steps, callbacks=[averages])
    assert list(snapshots_in(tmp_path)) == [3, 4, 6, 9]  # 2, 4, 6 of the first, 3, 6, 9 of the second
