"""The processes that `accelerate launch` has started for one run: who speaks, who writes, who waits."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from vae_ldm.errors import RunError

T = TypeVar("T")

# Reading pictures or evaluating may take hours; a process that dies is noticed by the launcher, not by a timeout.
_PATIENCE = timedelta(days=7)


class OtherProcessFailedError(SystemExit):
    """Raised where another process has failed and said why."""


@dataclass(frozen=True)
class Processes:
    """This process among `count`. One alone meets none of what is below."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    group: Any = None
    """A group on the CPU, for waiting: NCCL would give up after ten minutes."""

    @classmethod
    def launched(cls) -> "Processes":
        """The processes of this run, joined now where there are several."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from vae_ldm.training.engine import new_engine

        engine = new_engine()
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return cls(engine.process_index, engine.num_processes, engine.local_process_index, group)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Raise RunError, in place of the traceback of a broken connection, where another process has gone."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_broken_connection(error):
                raise
            raise RunError(
                "another process has gone: its own error, or the launcher's below, says why; repeat the command"
            ) from error

    @property
    def is_first(self) -> bool:
        """The one that speaks and writes."""
        return self.rank == 0

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, in all of them; the others wait for it.

        Where it fails, the first process raises, and the others leave without a word.
        """
        if self.count == 1:
            return work()
        if self.is_first:
            try:
                result = work()
            except BaseException:
                self._tell((False, None))
                raise
            self._tell((True, result))
            return result
        told: list[Any] = [None]
        distributed.broadcast_object_list(told, 0, group=self.group)
        went_well, result = told[0]
        if not went_well:
            raise OtherProcessFailedError(1)
        return result

    def _tell(self, what: tuple[bool, Any]) -> None:
        distributed.broadcast_object_list([what], 0, group=self.group)

    def wait(self) -> None:
        """Come back when all have come here."""
        if self.count > 1:
            distributed.barrier(self.group)

    def total(self, values: Tensor) -> Tensor:
        """The sum of every process's values, on the CPU."""
        values = values.cpu().clone()
        if self.count > 1:
            distributed.all_reduce(values, group=self.group)
        return values

    def gather(self, value: T) -> list[T]:
        """What each process has given, by rank, in all of them."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self.group)
        return values

    @property
    def device(self) -> torch.device:
        """Where this process's networks run."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def _is_broken_connection(error: BaseException) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def processes_in_words(count: int) -> str | None:
    """How many processes work together, where a launcher has started them; None for one that was started alone."""
    if count > 1:
        return f"{count} processes"
    if "ACCELERATE_MIXED_PRECISION" in os.environ and not torch.cuda.is_available():
        return "1 process; on a machine without GPUs accelerate launch starts several only with --multi_gpu"
    return None
