"""Which pictures come when: an endless order that follows from the seed alone."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

_BLOCK = 1024
"""Batches whose shares are drawn at once."""


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


@dataclass(frozen=True)
class Shares:
    """How the sources of a mixture, which lie one after the other, share the pictures that are drawn."""

    counts: tuple[int, ...]
    """Items of each source."""
    weights: tuple[float, ...]
    """A source's part of what is drawn is its weight over the sum of the weights."""


class MixedBatches(EndlessBatches):
    """`EndlessBatches` of several sources, each with its share of every batch.

    A place in a batch is of source i with probability weight i / sum of weights, and the number of a source's places is
    that share of the batch size, rounded up or down at random (systematic sampling): shares are held batch by batch and
    exact in the long run. Within a source items come once an epoch of that source.
    """

    def __init__(self, shares: Shares, batch_size: int, **options: Any) -> None:
        super().__init__(sum(shares.counts), batch_size, **options)
        assert min(shares.counts) > 0, "a source without items"
        self.shares = shares
        bounds = np.cumsum(shares.weights) / np.sum(shares.weights)
        self._bounds = np.concatenate([bounds[:-1], [1.0]]) * batch_size
        self._firsts = np.cumsum([0, *shares.counts[:-1]])
        self._taken_before = [np.zeros(len(shares.counts), np.int64)]
        """What each source has given before each block of batches, as far as blocks were asked for."""
        self._block = functools.lru_cache(maxsize=2)(self._draw_block)
        # The epoch of each source at hand, and the next one.
        self._permutation_of = functools.lru_cache(maxsize=2 * len(shares.counts))(self._draw_permutation_of)

    def batch(self, number: int) -> Batch:
        """Batch `number` of all replicas' common order, indices int64 [batch_size], source after source."""
        block, place = divmod(number, _BLOCK)
        counts = self._block(block)
        before = self._taken(block) + counts[:place].sum(axis=0)
        return Batch(
            number, np.concatenate([self._next(*turn) for turn in enumerate(zip(before, counts[place], strict=True))])
        )

    def _next(self, source: int, turn: tuple[int, int]) -> np.ndarray:
        """So many items of a source as are asked for, after those given before."""
        position, count = map(int, turn)
        size, stop, pieces = self.shares.counts[source], position + count, [np.empty(0, np.int64)]
        while position < stop:
            epoch, offset = divmod(position, size)
            pieces.append(self._permutation_of(source, epoch)[offset : offset + stop - position])
            position += len(pieces[-1])
        return np.concatenate(pieces)

    def _taken(self, block: int) -> np.ndarray:
        while len(self._taken_before) <= block:
            last = len(self._taken_before) - 1
            self._taken_before.append(self._taken_before[last] + self._block(last).sum(axis=0))
        return self._taken_before[block]

    def _draw_block(self, block: int) -> np.ndarray:
        """How many items each source gives to each batch of a block, int64 [_BLOCK, sources]."""
        starts = np.random.default_rng([self.seed, block, 3]).random((_BLOCK, 1))
        ends = np.floor(self._bounds + starts).astype(np.int64)
        ends[:, -1] = self.batch_size
        return np.diff(ends, axis=1, prepend=0)

    def _draw_permutation_of(self, source: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch, 2, source])
        return self._firsts[source] + rng.permutation(self.shares.counts[source])


def endless_batches(num_samples: int, batch_size: int, shares: Shares | None, **options: Any) -> EndlessBatches:
    """The endless order of the items of one source, or of several that share each batch."""
    if shares is None:
        return EndlessBatches(num_samples, batch_size, **options)
    return MixedBatches(shares, batch_size, **options)


def place_of(trainer: Any) -> dict[str, int]:
    """Rank and number of replicas, as keyword arguments, of a Lightning Trainer's process; None: one alone."""
    if trainer is None:
        return {}
    return {"rank": trainer.global_rank, "num_replicas": trainer.world_size}


class FixedBatches(Sampler[Batch]):
    """A replica's share of the same items in the same order each time, in batches of at most `batch_size`.

    Replica r of R takes every R-th item, so that all have some: there must be at least R. With `kinds`, one for each of
    the items, a batch holds items of one kind.
    """

    def __init__(
        self,
        items: np.ndarray,
        batch_size: int,
        *,
        kinds: np.ndarray | None = None,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        assert len(items) >= num_replicas
        own = items[rank::num_replicas]
        self.num_replicas = num_replicas
        runs = [own]
        if kinds is not None:
            own_kinds = kinds[rank::num_replicas]
            runs = np.split(own, np.flatnonzero(own_kinds[1:] != own_kinds[:-1]) + 1)
        cut = [run[start : start + batch_size] for run in runs for start in range(0, len(run), batch_size)]
        self.batches = [Batch(number, batch) for number, batch in enumerate(cut)]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def batch_generator(seed: int, number: int) -> np.random.Generator:
    """The generator of what is random within batch `number`: the same on a resume, in any worker, on any replica."""
    return np.random.default_rng([seed, number, 1])  # the 1 keeps it apart from the permutations'
