"""A stop, or a skipped step, where the loss is no number any more or has left for good."""

import logging
import statistics
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from vae_ldm.choices import OnNaN
from vae_ldm.errors import RunError
from vae_ldm.stored_json import StoredKind
from vae_ldm.training.callbacks import checkpoint_step
from vae_ldm.training.checkpoint_names import run_checkpoints

_log = logging.getLogger(__name__)
_TOO_LARGE = 100.0
"""Times the running median: training that recovers has been seen at ten times, never at a hundred."""
_TOO_LONG = 50
"""Batches in a row that must be too large: a spike passes."""
_MEMORY = 200
_Seen = tuple[int, Tensor, Tensor | None]
"""Step, loss and the pictures' indices of a batch."""
_PICTURES = StoredKind(newest=2, digest_from=2, cure="delete it and repeat the command to go on")
"""diverged.json and skipped.json, which name pictures for the user. Format 1 of the second was a list."""
_CURE = "lower the learning rate or use precision: 32-true, with --restart or under a new name"


class StopOnDivergence(Callback):
    """Ends the run with RunError when the loss is NaN, infinite or has exploded, and names the last good checkpoint.

    The pictures of the first such batch are written to `report`, by `names`, where batches hold their `index` [B].
    The loss has exploded where its size is more than a hundred times its running median for fifty batches in a row.

    With `on_nan="skip"` a step whose gradients are not finite is left out, on every process alike, up to
    `max_skipped_steps` of them in a run; each is told in a line, and its pictures are added to `skipped`.
    """

    def __init__(
        self,
        checkpoint_dir: Path,
        check_every_n_steps: int,
        *,
        names: Sequence[str] = (),
        on_nan: OnNaN = "stop",
        max_skipped_steps: int = 10,
    ) -> None:
        self.checkpoint_dir = checkpoint_dir
        self.report = checkpoint_dir.parent / "diverged.json"
        self.skipped = checkpoint_dir.parent / "skipped.json"
        self.check_every_n_steps = check_every_n_steps
        self.names = names
        self.on_nan = on_nan
        self.max_skipped_steps = max_skipped_steps
        self.num_skipped = 0
        self._skipping_since = self._last_skipped = -2
        self._recent: list[_Seen] = []
        self._this_step: tuple[int, list[Tensor]] = (-1, [])
        """Batches of the step under way, by their pictures' indices."""
        self._usual: deque[float] = deque(maxlen=_MEMORY)
        self._too_large_since: int | None = None
        self._num_too_large = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._this_step[0] != trainer.global_step:
            self._this_step = (trainer.global_step, [])
        if isinstance(batch, dict) and batch.get("index") is not None:
            self._this_step[1].append(batch["index"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        index = batch.get("index") if isinstance(batch, dict) else None
        self._recent.append((trainer.global_step, loss.detach(), index))
        if (batch_idx + 1) % self.check_every_n_steps == 0:  # one look every n steps: each waits for a GPU
            self._check(trainer, {})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self.on_nan == "stop" or trainer.precision == "16-mixed":  # whose scaler skips by itself
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            return
        self.num_skipped += 1
        optimizer.zero_grad(set_to_none=True)  # a step without gradients changes nothing
        if trainer.global_step - self._last_skipped > 1:
            self._skipping_since = trainer.global_step
        self._last_skipped = trainer.global_step
        self._name_skipped(trainer)
        if self.num_skipped > self.max_skipped_steps:
            self._remove_checkpoints(trainer, since=self._skipping_since)  # their weights have no gradients
            raise RunError(
                f"gradients were NaN or infinite in more than max_skipped_steps {self.max_skipped_steps} steps, at "
                f"last in step {trainer.global_step}; {self._kept()}; {_CURE}"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the weights as well: a step whose loss was finite may have ruined them."""
        self._check(trainer, checkpoint["state_dict"])

    def state_dict(self) -> dict[str, Any]:
        return {"num_skipped": self.num_skipped, "usual": list(self._usual)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_skipped = state_dict["num_skipped"]
        self._usual.extend(state_dict["usual"])

    def _check(self, trainer: Trainer, weights: dict[str, Tensor]) -> None:
        recent, self._recent = self._recent, []
        losses = torch.stack([loss.float() for _, loss, _ in recent]).cpu() if recent else torch.zeros(0)
        first_bad = next(iter((~torch.isfinite(losses)).nonzero().flatten().tolist()), None)
        if self.on_nan == "skip":
            first_bad = None  # gradients decide
        ruined = first_bad is not None or not all(bool(torch.isfinite(value).all()) for value in weights.values())
        if trainer.world_size > 1:  # a loss is one process's own
            ruined = trainer.strategy.reduce_boolean_decision(ruined, all=False)
        if ruined:
            self._name_pictures(trainer, recent, first_bad)
            # Checkpoints are looked at before they are written, so all that are there are good.
            raise RunError(f"the loss became NaN or infinite by step {trainer.global_step}; {self._kept()}; {_CURE}")
        self._watch_size(trainer, recent, losses)

    def _watch_size(self, trainer: Trainer, recent: list[_Seen], losses: Tensor) -> None:
        for (step, _, _), loss in zip(recent, losses.abs().tolist(), strict=True):
            usual = statistics.median(self._usual) if len(self._usual) >= _TOO_LONG else 0.0
            if usual <= 0 or loss <= _TOO_LARGE * usual:
                self._usual.append(loss)
                self._num_too_large = 0
                continue
            self._num_too_large += 1
            self._too_large_since = step if self._num_too_large == 1 else self._too_large_since
        diverged = self._num_too_large >= _TOO_LONG
        if trainer.world_size > 1:
            diverged = trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if diverged:
            since = self._too_large_since or trainer.global_step
            self._remove_checkpoints(trainer, since=since)
            raise RunError(
                f"the loss has exploded: over {_TOO_LARGE:.0f} times its usual value since step {since}; "
                f"{self._kept()}; {_CURE}"
            )

    def _remove_checkpoints(self, trainer: Trainer, *, since: int) -> None:
        """So that a repeated command begins before it went wrong."""
        if trainer.is_global_zero:
            for path in run_checkpoints(self.checkpoint_dir):
                if checkpoint_step(path) >= since:
                    path.unlink()
        trainer.strategy.barrier()

    def _name_pictures(self, trainer: Trainer, recent: list[_Seen], first_bad: int | None) -> None:
        """Write those of the first bad batch: a step later every process has the weights that it has ruined."""
        strategy, last = trainer.strategy, len(recent)
        first = last if first_bad is None else first_bad
        if trainer.world_size > 1:
            earliest = torch.tensor(first, device=strategy.root_device)
            first, mine = int(strategy.reduce(earliest, reduce_op="min")), first
        else:
            mine = first
        if first == last or recent[first][2] is None:
            return
        step, _, rows = recent[first]
        assert rows is not None
        pictures = self._rows(trainer, rows if mine == first else torch.full_like(rows, -1))
        if trainer.is_global_zero:
            self.report.parent.mkdir(parents=True, exist_ok=True)
            _PICTURES.write(self.report, {"step": step, "pictures": pictures})

    def _name_skipped(self, trainer: Trainer) -> None:
        step, batches = self._this_step
        found = self._rows(trainer, torch.cat(batches)) if batches else []
        if not trainer.is_global_zero:
            return
        told = f"step {step}: gradients are NaN or infinite; skipped ({self.num_skipped} of {self.max_skipped_steps})"
        if found:
            _PICTURES.write(self.skipped, {"skipped": [*self._skipped_before(), {"step": step, "pictures": found}]})
            told += f"; its pictures are in {self.skipped}"
        _log.warning(told)

    def _skipped_before(self) -> list[dict[str, Any]]:
        """What an earlier step, or an earlier part of the run, has left out. Raises DataError of a damaged file."""
        if not self.skipped.exists():
            return []
        stored = _PICTURES.loaded(self.skipped)
        before = stored if isinstance(stored, list) else _PICTURES.checked(self.skipped, stored).get("skipped")
        return _PICTURES.typed(self.skipped, list[dict[str, Any]], before)

    def _rows(self, trainer: Trainer, rows: Tensor) -> list[Any]:
        """Pictures of all processes by name; rows below 0 stand for no picture."""
        if trainer.world_size > 1:
            rows = trainer.strategy.all_gather(rows.to(trainer.strategy.root_device)).flatten()
        return [self.names[row] if row < len(self.names) else row for row in rows.tolist() if row >= 0]

    def _kept(self) -> str:
        good = run_checkpoints(self.checkpoint_dir)
        kept = f"the last good checkpoint is {good[0]}" if good else "no checkpoint had been written yet"
        return f"{kept}; the pictures of that batch are in {self.report}" if self.report.exists() else kept
