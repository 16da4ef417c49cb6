"""A loader that gives one process its share, and goes on in the middle of an epoch after a stop."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader


class SharedLoader:
    """The batches of an Accelerator's loader, with their epoch and their number kept for a checkpoint.

    The order follows from `seed` and the epoch alone, because the state of the global generator differs between
    processes. It is no DataLoader, because Lightning would take that apart and put another sampler in.
    """

    def __init__(self, loader: Any, *, seed: int, skip: Callable[[Any, int], Any]) -> None:
        self.loader = loader
        self.seed = seed
        self._skip = skip
        self._epoch = 0
        self._taken = 0
        self._resume_at: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing is read before Lightning has said which epoch it is.
        start = 0
        if self._resume_at is not None:
            epoch, batches = self._resume_at
            self._resume_at = None
            start = batches if epoch == self._epoch else 0
        self._taken = start
        self._order(self._epoch)
        loader = self._skip(self.loader, start) if start else self.loader
        loader.iteration = self._epoch  # DataLoaderShard sets the samplers' epoch to it
        for batch in loader:
            self._taken += 1
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def sampler(self) -> "SharedLoader":
        """Itself: Lightning tells the epoch to `loader.sampler`."""
        return self

    @property
    def dataset(self) -> Any:
        """What is loaded."""
        return self.loader.dataset

    def set_epoch(self, epoch: int) -> None:
        """The order to come is that of this epoch."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        # Where there is no length Lightning fetches one batch ahead.
        ahead = 0 if _has_length(self.loader) or not self._taken else 1
        return {"epoch": self._epoch, "batches": self._taken - ahead}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._epoch = state_dict["epoch"]
        self._resume_at = state_dict["epoch"], state_dict["batches"]

    def _order(self, epoch: int) -> None:
        """Give a sampler that draws from the global generator (torch's weighted one) a generator of its own."""
        batch_sampler = getattr(self.loader.batch_sampler, "batch_sampler", self.loader.batch_sampler)
        sampler: Any = getattr(batch_sampler, "sampler", None)
        if getattr(sampler, "generator", False) is not False:
            sampler.generator = torch.Generator().manual_seed(self.seed + epoch)


def shares_out_itself(loader: DataLoader[Any], num_processes: int) -> bool:
    """Its sampler or data set gives each of so many processes a share already (`num_replicas` says of how many)."""
    parts = (loader.sampler, loader.batch_sampler, loader.dataset)
    return any(getattr(part, "num_replicas", None) == num_processes for part in parts)


def _has_length(loader: Any) -> bool:
    try:
        len(loader)
    except (TypeError, NotImplementedError):
        return False
    return True
