"""Which weights leave a stage: the best of several by one half of the validation pictures, judged on the other half."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from vae_ldm.choices import BestEnd, ValidationMetric
from vae_ldm.errors import DataError, VaeLdmError, WeightsError
from vae_ldm.evaluation.interval import Interval, bootstrap_interval
from vae_ldm.evaluation.measurement import Measurement, Reference
from vae_ldm.files import remove
from vae_ldm.pages.environment import number
from vae_ldm.recipe import Recipe, parts
from vae_ldm.recipe.stages import TRAINED, stage_named
from vae_ldm.run.folder import Stage
from vae_ldm.run.session import Session
from vae_ldm.text import counted
from vae_ldm.training.callbacks import checkpoint_step
from vae_ldm.training.checkpoint_file import is_whole, read_checkpoint
from vae_ldm.training.checkpoint_names import BEST_CHECKPOINT
from vae_ldm.training.engine_plugins import AUTOCAST_DTYPES
from vae_ldm.training.power_averages import (
    TRACKED_LENGTHS,
    WORST_RESIDUAL,
    PowerAverages,
    averaged_parameters,
    is_whole_snapshot,
    snapshot_steps,
    snapshots_in,
    worst_length,
)


class Halves(NamedTuple):
    """Indices of validation pictures: some choose weights, the others judge them."""

    choosing: np.ndarray
    judging: np.ndarray


@dataclass(frozen=True)
class Choice:
    """What was chosen, by what, and how good it is on pictures that had no say."""

    name: str
    step: int
    length: float | None
    """Of an average that was put together."""
    metric: ValidationMetric
    candidates: dict[str, float]
    """The metric on the choosing half, of all that were tried."""
    num_choosing: int
    value: float
    """The metric on the judging half; `low` and `high` are the ends of its 95 % interval."""
    low: float | None
    high: float | None
    num_judging: int
    last: float
    """The metric of the last weights on the judging half; `difference_low` and `difference_high` are the ends of the
    95 % interval of value minus last, paired by picture."""
    difference_low: float | None
    difference_high: float | None

    @property
    def is_last(self) -> bool:
        """No other weights were better than the last ones."""
        return self.name == LAST

    @property
    def short_name(self) -> str:
        """The weights as a part of a folder's name."""
        return f"step={self.step}" if self.length is None else f"average-{self.length:g}"

    def in_words(self) -> str:
        """A line about it."""
        beside = "" if self.is_last else f", and of the last weights {number(self.last)}"
        return (
            f"{self.name} leave this stage, the best of {len(self.candidates)} by {self.metric} "
            f"{number(self.candidates[self.name])} on {counted(self.num_choosing, 'validation picture')}; on the other "
            f"{self.num_judging:,} it is {number(self.value)}{beside}"
        )


LAST = "the last weights"


def choice_in(facts: Mapping[str, Any]) -> Choice | None:
    """The choice among the facts of a finished stage; None where it made none."""
    return Choice(**facts["choice"]) if "choice" in facts else None


def of_choice(stage: Stage, choice: Choice) -> Measurement:
    """How good the chosen weights are on pictures that had no say, beside the last ones where those are others."""
    _, mode = stage_named(stage).best(choice.metric)
    interval, difference = (
        None if low is None or high is None else Interval(low, high)
        for low, high in ((choice.low, choice.high), (choice.difference_low, choice.difference_high))
    )
    return Measurement.of(
        f"chosen_{choice.metric.removeprefix('val/')}",
        choice.value,
        unit="dB" if choice.metric == "val/psnr" else "",
        split="validation",
        num_images=choice.num_judging,
        stage=stage,
        better="higher" if mode == "max" else "lower",
        interval=interval,
        reference=None if choice.is_last else Reference(choice.last, LAST, "comparison", difference=difference),
    )


def makes_a_choice(part: parts.Trainer, ema: parts.Ema | parts.PowerEma | None) -> bool:
    """Whether the stage has several weights to choose among when it is trained."""
    return part.export == "best" or isinstance(ema, parts.PowerEma)


def validation_halves(count: int, processes: int, stage: Stage) -> Halves:
    """Two halves of `count` validation pictures, which take turns: pictures lie class by class.

    Raises DataError where a process would have no picture of one of them.
    """
    if count < 2 * processes:
        raise DataError(
            f"{counted(count, 'validation picture')} cannot be halved between choosing weights and judging them"
            f"{f' on {processes} processes' if processes > 1 else ''}; set {stage}.trainer.export: last and no "
            f"{stage}.ema of type power, or give it more pictures"
        )
    return Halves(np.arange(0, count, 2), np.arange(1, count, 2))


def averages_folder(session: Session, stage: Stage) -> Path:
    """Where snapshots of a stage's averages lie."""
    return session.run.path / stage / "averages"


def check_average_lengths(recipe: Recipe) -> None:
    """Raise VaeLdmError where the snapshots of a stage are too few for one of the lengths that it asks for."""
    for stage in TRAINED:
        section, key = getattr(recipe, stage.name), f"{stage.section}.ema"
        if section is None or not isinstance(ema := section.ema, parts.PowerEma):
            continue
        length, residual = worst_length(ema.lengths, section.trainer.max_steps, ema.num_snapshots)
        if residual > WORST_RESIDUAL:
            raise VaeLdmError(
                f"{key}.lengths: {length:g} cannot be put together from {ema.num_snapshots} snapshots (it "
                f"would be {residual:.0%} off its profile); raise {key}.num_snapshots, or leave it out"
            )


def new_averages(
    session: Session, stage: Stage, module: LightningModule, part: parts.Trainer, ema: parts.PowerEma
) -> PowerAverages:
    """The callback that keeps the averages; says how much room they take."""
    folder = averages_folder(session, stage)
    session.say(f"{stage}: {snapshots_in_words(module, part, ema)}; they lie in {folder}")
    return PowerAverages(folder, snapshot_steps(part.max_steps, ema.num_snapshots), dtype=_dtype(ema))


def snapshots_in_words(module: nn.Module, part: parts.Trainer, ema: parts.PowerEma) -> str:
    """The room that the averages of a stage take in memory and on the disk."""
    averaged = sum(parameter.numel() for parameter in averaged_parameters(module).values())
    in_memory = len(TRACKED_LENGTHS) * 4 * averaged / 2**20
    each = len(TRACKED_LENGTHS) * averaged * torch.finfo(_dtype(ema)).bits / 8 / 2**20
    count = len(snapshot_steps(part.max_steps, ema.num_snapshots)) - 1
    kept = "stay when the stage is finished" if ema.keep_snapshots else "are deleted when the stage is finished"
    return (
        f"two averages of the weights take {number(in_memory)} MiB more memory, and {counted(count, 'snapshot')} of "
        f"them {number(count * each)} MiB of disk, which {kept}"
    )


def _dtype(ema: parts.PowerEma) -> torch.dtype:
    return torch.float16 if ema.snapshot_dtype == "float16" else torch.float32


def drop_snapshots(session: Session, stage: Stage) -> None:
    """Delete the snapshots of a finished stage unless its recipe keeps them."""
    section = getattr(session.recipe, stage)
    if section is not None and not (isinstance(section.ema, parts.PowerEma) and section.ema.keep_snapshots):
        remove(averages_folder(session, stage))


@torch.no_grad()
def choose_weights(
    session: Session,
    stage: Stage,
    module: LightningModule,
    data: Any,
    part: parts.Trainer,
    averages: PowerAverages | None,
    halves: Halves,
    *,
    last_step: int,
    precision: str,
) -> Choice:
    """Leave the best weights in the module. Every process must call it.

    Candidates are the last weights, the averages of the recipe's lengths and, with `export: best`, best.ckpt. They are
    measured on the pictures that validation during training has looked at, of the choosing half; the chosen ones and
    the last ones then on the whole judging half.
    """
    metric, mode = stage_named(stage).best(part.best_by)
    last = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
    found = dict(_candidates(session, stage, part, averages, last, last_step=last_step))
    modes = [(each, each.training) for each in module.modules()]
    module.to(session.device).eval()
    measure = functools.partial(_measure, session, module, data, metric, precision)

    values: dict[str, float] = {}
    for candidate, weights in found.items():
        _load(module, weights.weights())
        values[candidate] = measure(data.val_indices).mean().item()
    name = session.processes.first(lambda: best_of(values, mode))
    _load(module, last)
    of_last = measure(halves.judging)
    _load(module, found[name].weights())
    judged = of_last if name == LAST else measure(halves.judging)
    module.to("cpu")
    for each, training in modes:
        each.training = training

    low, high = bootstrap_interval(judged) or (None, None)
    difference_low, difference_high = bootstrap_interval(judged - of_last) or (None, None)
    choice = Choice(
        name=name,
        step=found[name].step,
        length=found[name].length,
        metric=metric,
        candidates=values,
        num_choosing=len(data.val_indices),
        value=judged.mean().item(),
        low=low,
        high=high,
        num_judging=len(halves.judging),
        last=of_last.mean().item(),
        difference_low=difference_low,
        difference_high=difference_high,
    )
    session.say(f"{stage}: {choice.in_words()}")
    return choice


def best_of(values: Mapping[str, float], mode: BestEnd) -> str:
    """The name of the best value; one that is no number is worse than any number."""
    numbers = {name: value for name, value in values.items() if not math.isnan(value)} or values
    return (min if mode == "min" else max)(numbers, key=numbers.__getitem__)


class _Candidate(NamedTuple):
    step: int
    length: float | None
    weights: Callable[[], Mapping[str, Tensor]]


def _candidates(
    session: Session,
    stage: Stage,
    part: parts.Trainer,
    averages: PowerAverages | None,
    last: Mapping[str, Tensor],
    *,
    last_step: int,
) -> Iterator[tuple[str, _Candidate]]:
    yield LAST, _Candidate(last_step, None, lambda: last)
    if averages is not None:
        snapshots = session.processes.first(lambda: _whole_snapshots(session, averages.folder, last_step))
        for length in getattr(session.recipe, stage).ema.lengths:
            residual = averages.residual(length, snapshots)
            if residual > WORST_RESIDUAL:
                session.say(
                    f"{stage}: an average of length {length:g} is left out: the snapshots that there are give it only "
                    f"to {residual:.0%} of its profile"
                )
                continue
            weights = functools.partial(averages.average, length, snapshots)
            yield f"the averages of length {length:g}", _Candidate(last_step, length, weights)
    best = session.run.checkpoints(stage) / BEST_CHECKPOINT
    if part.export == "best":
        step = session.processes.first(lambda: _step_if_whole(session, stage, best))
        # Of the last step it holds the last weights, unless those are no average and it is one.
        if step is not None and (step != last_step or averages is not None):
            yield f"the weights of step {step}", _Candidate(step, None, lambda: read_checkpoint(best)["state_dict"])


def _step_if_whole(session: Session, stage: Stage, best: Path) -> int | None:
    """The step of the best checkpoint; None where there is none, or a damaged one, which is told in a line."""
    if not best.is_file():
        return None
    if not is_whole(best):
        session.say(f"{stage}: {best} is damaged; it is not among the weights to choose from")
        return None
    return checkpoint_step(best)


def _whole_snapshots(session: Session, folder: Path, last_step: int) -> dict[int, Path]:
    """The snapshots of steps before the last one, less damaged ones, each of which is told in a line."""
    whole = {}
    for step, path in snapshots_in(folder, before=last_step).items():
        if is_whole_snapshot(path):
            whole[step] = path
        else:
            session.say(f"{path} is damaged; averages are put together without it")
    return whole


def _load(module: LightningModule, weights: Mapping[str, Tensor]) -> None:
    """Put the weights into the module; what is not among them is not trained."""
    unexpected = module.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise WeightsError(f"these weights are of another network: {unexpected[0]} is not in it")


def _measure(
    session: Session, module: Any, data: Any, metric: ValidationMetric, precision: str, indices: np.ndarray
) -> Tensor:
    """The metric of each of these validation pictures, float64 [N], in their order; each process measures its share."""
    data.val_indices, before = indices, data.val_indices
    found: dict[int, float] = {}
    try:
        for batch in data.val_dataloader():
            there = {name: value.to(session.device) for name, value in batch.items()}
            with _autocast(session.device, precision):
                values = module.validation_values(there)[metric]
            found |= dict(zip(batch["index"].tolist(), values.double().tolist(), strict=True))
    finally:
        data.val_indices = before
    everywhere = {index: value for part in session.processes.gather(found) for index, value in part.items()}
    return torch.tensor([everywhere[index] for index in indices.tolist()], dtype=torch.float64)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    dtype = AUTOCAST_DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
