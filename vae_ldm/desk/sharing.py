"""Photos shared out over the processes that `accelerate launch` has started."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import distributed

from vae_ldm.data.photo_stream import PhotoBatch
from vae_ldm.data.sources import Record
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.processes import Processes

T = TypeVar("T")

BATCH_SIZE = 32


@dataclass
class Findings(Generic[T]):
    """What was found in photos, a batch each, in their order; and those that cannot be read, with the reason."""

    batches: list[T] = field(default_factory=list)
    unreadable: list[tuple[Record, str]] = field(default_factory=list)


@dataclass
class _Shard(Generic[T]):
    """What was found in the batch that begins with photo `start`."""

    start: int
    found: list[T] = field(default_factory=list)
    unreadable: list[tuple[Record, str]] = field(default_factory=list)

    def pass_over(self, record: Record, why: str) -> None:
        self.unreadable.append((record, why))


def over_photos(
    encoder: PhotoEncoder,
    records: Sequence[Record],
    work: Callable[[PhotoBatch], T],
    *,
    processes: Processes,
    report: Callable[[int, int], None] | None = None,
) -> Findings[T]:
    """What `work` gives for every batch; process r of R takes every R-th batch, and only the first hears of all.

    Batches are the same however many processes there are, and so is what is found, bit for bit.
    """
    own: list[_Shard[T]] = []
    for start in range(processes.rank * BATCH_SIZE, len(records), processes.count * BATCH_SIZE):
        shard = _Shard[T](start)
        batches = encoder.batches(
            records[start : start + BATCH_SIZE], batch_size=BATCH_SIZE, on_unreadable=shard.pass_over
        )
        shard.found = [work(batch) for batch in batches]
        own.append(shard)
        if report is not None:
            report(min(start + processes.count * BATCH_SIZE, len(records)), len(records))
    everything = own
    if processes.count > 1:
        gathered: list[Any] = [None] * processes.count
        distributed.gather_object(own, gathered if processes.is_first else None, dst=0, group=processes.group)
        if processes.is_first:
            everything = sorted((shard for shards in gathered for shard in shards), key=lambda shard: shard.start)
    return Findings(
        [found for shard in everything for found in shard.found],
        [passed for shard in everything for passed in shard.unreadable],
    )
