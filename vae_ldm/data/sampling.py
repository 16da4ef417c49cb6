"""Which pictures come when: an endless order that follows from the seed alone."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Batch(NamedTuple):
    """Which items make up a batch, and its number, from which all its randomness follows."""

    number: int
    indices: np.ndarray


class EndlessBatches(Sampler[Batch]):
    """Batches without end, number k a pure function of (seed, k): a resumed run meets the ones it would have met.

    They are cut from the permutations of all epochs laid end to end, so each item comes once an epoch, no batch is
    short, and there may be fewer items than a batch holds. Replica r of R takes every R-th batch, beginning with r:
    what R processes see together does not depend on how many they are, only how it is shared out. `start_batch` is the
    number of batches that all replicas, of however many there were then, have taken already.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        start_batch: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        assert num_samples > 0, "nothing to sample from"
        assert batch_size > 0
        assert 0 <= rank < num_replicas
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.start_batch = start_batch
        self.rank, self.num_replicas = rank, num_replicas
        # A batch touches its epoch and, at most, begins the next one, unless it is larger than an epoch.
        self._permutation = functools.lru_cache(maxsize=2)(self._draw_permutation)

    def __iter__(self) -> Iterator[Batch]:
        """This replica's batches, from `start_batch` on."""
        for number in itertools.count(self.start_batch + self.rank, self.num_replicas):
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """Batch `number` of all replicas' common order, indices int64 [batch_size]."""
        position, stop = number * self.batch_size, (number + 1) * self.batch_size
        pieces = []
        while position < stop:
            epoch, offset = divmod(position, self.num_samples)
            pieces.append(self._permutation(epoch)[offset : offset + stop - position])
            position += len(pieces[-1])
        return Batch(number, np.concatenate(pieces))

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)


def place_of(trainer: Any) -> dict[str, int]:
    """Rank and number of replicas, as keyword arguments, of a Lightning Trainer's process; None: one alone."""
    if trainer is None:
        return {}
    return {"rank": trainer.global_rank, "num_replicas": trainer.world_size}


class FixedBatches(Sampler[Batch]):
    """A replica's share of the same items in the same order each time, in batches of at most `batch_size`.

    Replica r of R takes every R-th item, so that all have some: there must be at least R.
    """

    def __init__(self, items: np.ndarray, batch_size: int, *, rank: int = 0, num_replicas: int = 1) -> None:
        assert len(items) >= num_replicas
        own = items[rank::num_replicas]
        self.num_replicas = num_replicas
        starts = range(0, len(own), batch_size)
        self.batches = [Batch(number, own[start : start + batch_size]) for number, start in enumerate(starts)]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def batch_generator(seed: int, number: int) -> np.random.Generator:
    """The generator of what is random within batch `number`: the same on a resume, in any worker, on any replica."""
    return np.random.default_rng([seed, number, 1])  # the 1 keeps it apart from the permutations'
