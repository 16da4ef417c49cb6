"""Averages of the weights whose length is chosen after training (Karras 2023, EDM2, arXiv 2312.02696, section 3)."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vae_ldm.files import written_whole
from vae_ldm.training.weight_average import FusedAverage, take_buffers_of_first_process

TRACKED_LENGTHS = (0.05, 0.10)
"""Of the two averages that are kept during training, as in the paper; the last one is validated."""
WORST_RESIDUAL = 0.1
"""An average that is further from its profile than this share of it is not offered."""
_SHORT, _LONG = TRACKED_LENGTHS
_WEIGHTS_STATE = "short_average"
_DIGEST = "sha256"


def gamma_of(length: float) -> float:
    """The power gamma of an average whose weights have the relative standard deviation `length` (algorithm 2)."""
    squared = length**-2
    return float(np.roots([1, 7, 16 - squared, 12 - squared]).real.max())


def decay_after(updates: int, length: float) -> float:
    """The share of the old average in the next one (algorithm 1, eq. 3): (1 - 1 / t) ** (gamma + 1) at step t."""
    return (1 - 1 / (updates + 1)) ** (gamma_of(length) + 1)


class Kept(NamedTuple):
    """An average that is there: of which length, at which step."""

    step: int
    length: float


def combination(kept: Sequence[Kept], step: int, length: float) -> tuple[np.ndarray, float]:
    """The factors of the kept averages [N] that together are the average of `length` at `step`, and the residual.

    The factors solve the least squares problem of algorithm 3 and sum to 1. The residual is the distance between the
    two profiles over the wanted one's size: 0 where they agree.
    """
    steps = np.array([one.step for one in kept], dtype=float)
    gammas = np.array([gamma_of(one.length) for one in kept])
    wanted = gamma_of(length)
    products = _profile_product(steps[:, None], gammas[:, None], steps[None], gammas[None])
    aims = _profile_product(steps, gammas, np.array(float(step)), np.array(wanted))
    factors = np.linalg.lstsq(products, aims, rcond=None)[0]
    factors /= factors.sum()
    size = float(_profile_product(*(np.array(float(value)) for value in (step, wanted, step, wanted))))
    residual = 1 - 2 * float(factors @ aims) / size + float(factors @ products @ factors) / size
    return factors, max(0.0, residual) ** 0.5


def _profile_product(steps: np.ndarray, gammas: np.ndarray, others: np.ndarray, other_gammas: np.ndarray) -> np.ndarray:
    """The integral of the product of two profiles (gamma + 1) t ** gamma / T ** (gamma + 1) (algorithm 3)."""
    power = np.where(steps < others, other_gammas, -gammas)
    longer = np.maximum(steps, others)
    return (gammas + 1) * (other_gammas + 1) * (steps / others) ** power / ((gammas + other_gammas + 1) * longer)


def snapshot_steps(max_steps: int, num_snapshots: int) -> list[int]:
    """Evenly spread steps up to `max_steps`, which is the last one; fewer where there are fewer steps."""
    return sorted({max(1, round(max_steps * number / num_snapshots)) for number in range(1, num_snapshots + 1)})


def worst_length(lengths: Sequence[float], max_steps: int, num_snapshots: int) -> tuple[float, float]:
    """The length that so many snapshots give least well, and its residual."""
    kept = [Kept(step, length) for step in snapshot_steps(max_steps, num_snapshots) for length in TRACKED_LENGTHS]
    return max(((length, combination(kept, max_steps, length)[1]) for length in lengths), key=lambda pair: pair[1])


class PowerAverages(FusedAverage):
    """Two power-function averages of the weights, and snapshots of both in `folder` at the given steps.

    The longer one is validated and is the weights of a checkpoint. The module keeps its own weights when training ends:
    which average takes their place is decided afterwards, with `average`. Of `averaged_parameters` alone there is a
    shorter one, and are there snapshots.
    """

    def __init__(self, folder: Path, steps: Sequence[int], *, dtype: torch.dtype) -> None:
        super().__init__()
        self.folder = folder
        self.steps = frozenset(steps)
        self.dtype = dtype
        self._short: dict[str, Tensor] = {}
        self._averaged: dict[str, nn.Parameter] = {}

    def decay_after(self, updates: int) -> float:
        return decay_after(updates, _LONG)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._averaged = averaged_parameters(pl_module)
        self._short = {name: value.to(self._averaged[name].device) for name, value in self._short.items()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before = self._latest_update_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._latest_update_step == before:
            return  # a step may take several batches
        with torch.no_grad():
            if not self._short:
                self._short = {name: parameter.detach().clone() for name, parameter in self._averaged.items()}
            else:
                current: list[Tensor] = [self._averaged[name] for name in self._short]
                torch._foreach_lerp_(list(self._short.values()), current, 1 - decay_after(before, _SHORT))
        step = self._latest_update_step
        if step in self.steps and step != trainer.max_steps and trainer.is_global_zero:
            write_snapshot(self.folder, step, self._averages(), dtype=self.dtype, keep=len(self.steps))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the module keeps the weights of the last step."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        take_buffers_of_first_process(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint[_WEIGHTS_STATE] = dict(self._short)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        own = averaged_parameters(pl_module)  # a checkpoint of before has the discriminator's as well
        self._short = {name: value for name, value in checkpoint[_WEIGHTS_STATE].items() if name in own}

    def residual(self, length: float, snapshots: Collection[int]) -> float:
        """How far the average of `length` at the last step is from its profile, put together from snapshots."""
        return combination(self._kept(snapshots), self._latest_update_step, length)[1]

    def average(self, length: float, snapshots: Mapping[int, Path]) -> dict[str, Tensor]:
        """The trained weights averaged over `length` at the last step, on the CPU, from snapshots by their steps."""
        last, kept = self._latest_update_step, self._kept(snapshots)
        factor = dict(zip(kept, combination(kept, last, length)[0].tolist(), strict=True))
        live = self._averages()
        total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in live[_LONG].items()}
        for step in sorted(snapshots):
            for tracked, name, value in read_snapshot(snapshots[step], total.keys()):
                total[name].add_(value.double(), alpha=factor[Kept(step, tracked)])
        for tracked, values in live.items():
            for name, value in values.items():
                total[name].add_(value.cpu().double(), alpha=factor[Kept(last, tracked)])
        return {name: value.to(live[_LONG][name].dtype) for name, value in total.items()}

    def _kept(self, snapshots: Collection[int]) -> list[Kept]:
        steps = [*sorted(snapshots), self._latest_update_step]
        return [Kept(step, tracked) for step in steps for tracked in TRACKED_LENGTHS]

    def _averages(self) -> dict[float, dict[str, Tensor]]:
        assert self._average_model is not None
        own = dict(self._average_model.module.named_parameters())
        return {_SHORT: self._short, _LONG: {name: own[name].detach() for name in self._short}}


def averaged_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained of a module, by its name, less the children that it names in `not_exported`."""
    left_out = getattr(module, "not_exported", ())
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and name.partition(".")[0] not in left_out
    }


def write_snapshot(
    folder: Path, step: int, averages: Mapping[float, Mapping[str, Tensor]], *, dtype: torch.dtype, keep: int
) -> None:
    """Write the averages to `folder`/step=N.safetensors, whole or not at all, and keep the newest `keep` of them.

    A tensor with numbers that float16 does not reach stays in its own type.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{length:g}/{name}": _narrowed(value.detach().cpu(), dtype).contiguous()
        for length, values in averages.items()
        for name, value in values.items()
    }
    with written_whole(folder / f"step={step}.safetensors", synced=True) as file:
        file.write(save(tensors, metadata={_DIGEST: _digest(tensors.__getitem__, sorted(tensors))}))
    # Only a run whose max_steps was changed under way has more.
    for old in sorted(snapshots_in(folder).items())[:-keep]:
        old[1].unlink()


def _narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = value.to(dtype)
    return narrow if bool(torch.isfinite(narrow).all()) else value


def snapshots_in(folder: Path, *, before: int | None = None) -> dict[int, Path]:
    """The snapshots of a folder by their steps, of those before a step where one is given."""
    found = {int(path.stem.removeprefix("step=")): path for path in folder.glob("step=*.safetensors")}
    return {step: path for step, path in sorted(found.items()) if before is None or step < before}


def read_snapshot(path: Path, names: Collection[str] | None = None) -> Iterator[tuple[float, str, Tensor]]:
    """Length, parameter's name and value of everything in a snapshot, or of these names alone, one at a time."""
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  # it is no dictionary
            length, _, name = key.partition("/")
            if names is None or name in names:
                yield float(length), name, file.get_tensor(key)


def is_whole_snapshot(path: Path) -> bool:
    """The file is what `write_snapshot` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            digest = _digest(file.get_tensor, sorted(file.keys()))
            return (file.metadata() or {}).get(_DIGEST) == digest
    except (OSError, SafetensorError):
        return False


def _digest(tensor: Callable[[str], Tensor], names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode())
        digest.update(tensor(name).numpy().tobytes())
    return digest.hexdigest()
