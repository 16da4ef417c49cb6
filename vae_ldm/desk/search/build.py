"""`vae-ldm index build` and `add`: photos are encoded, by one process or by several, and added in small steps.

Each step is added as a whole, so a command that was stopped goes on when it is repeated: what is in is not encoded
again.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from vae_ldm.data.crop_advice import unseen_advice
from vae_ldm.data.names import as_text
from vae_ldm.data.photo_stream import check_unreadable, photo_records
from vae_ldm.data.sources import Record
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.desk.search.index import (
    Index,
    check_encoder,
    content_digest,
    create_store,
    has_store,
    index_facts,
    open_index,
    open_store,
)
from vae_ldm.desk.search.store import IndexedPhoto
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.hardware import prepare_cpu
from vae_ldm.latent_space.features import FeatureKind, FeatureSpace, Part, parts_of
from vae_ldm.processes import Processes
from vae_ldm.terminal import StepReport, quieten_libraries
from vae_ldm.text import counted

FIT_PHOTOS = 2048
"""Photos, evenly spread, on which the feature space of a new index is fitted."""
COMMIT_PHOTOS = 512
"""Photos that are added at one stroke: what a killed command loses at most."""
_BATCH_SIZE = 32
_SHOWN_UNREADABLE = 10

RawVectors = dict[Part, Tensor]


def build_index(
    index: Path | str,
    photos: Path,
    *,
    model: str,
    kind: FeatureKind = "both",
    backbone: str | None = None,
    store: str | None = None,
    caption_column: str | None = None,
) -> Index:
    """A new index of the photos; where there is one of the same model and features, that one, with what it lacked.

    Raises DataError and WeightsError for what cannot be opened, VaeLdmError where another index is in the way; at the
    end ManyUnreadableError where more than one in a hundred of the photos was left out.
    """
    work = _Work()
    records = photo_records(photos, caption_column=caption_column)
    encoder = PhotoEncoder(model, kind=kind, backbone=backbone, device=work.processes.device)
    work.tell_unseen(encoder, records)
    if not work.processes.first(lambda: has_store(index, store)):
        chosen = np.linspace(0, len(records) - 1, min(FIT_PHOTOS, len(records))).astype(int)
        vectors = work.fit_vectors(encoder, [records[row] for row in chosen])
        facts = index_facts(encoder, backbone)
        work.processes.first(lambda: create_store(index, store, facts, FeatureSpace.fit(kind, vectors)))
    opened = open_store(index, store)
    if opened.facts.kind != kind:
        raise VaeLdmError(f"{opened.name}: holds an index of other features ({opened.facts.features}); name another")
    check_encoder(opened, encoder)
    work.add(Index(opened, encoder), records)
    return Index(opened, encoder)


def add_photos(
    index: Path | str,
    photos: Path,
    *,
    model: str | None = None,
    store: str | None = None,
    caption_column: str | None = None,
) -> Index:
    """The index with those of the photos that it lacked; one of the same name and content is in already.

    Raises what `open_index` does, RunError where another process writes to the same folder, and at the end
    ManyUnreadableError as `build_index` does.
    """
    work = _Work()
    records = photo_records(photos, caption_column=caption_column)
    opened = open_index(index, store=store, model=model, device=work.processes.device)
    work.tell_unseen(opened.encoder, records)
    work.add(opened, records)
    return opened


class _Share(NamedTuple):
    """What one process has made of its part of some photos."""

    photos: list[tuple[int, IndexedPhoto]]
    """Each with its place among all records."""
    vectors: list[Tensor]
    unreadable: dict[str, str]
    num_known: int


class _Work:
    """The processes that encode for one index; the first one speaks and writes."""

    def __init__(self) -> None:
        prepare_cpu()
        quieten_libraries()
        self.processes = Processes.launched()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not self.processes.is_first)
        self._raw: dict[str, RawVectors] = {}  # what was encoded for the fit is not encoded again
        self._unreadable: dict[str, str] = {}

    def tell_unseen(self, encoder: PhotoEncoder, records: Sequence[Record]) -> None:
        """Say so where the encoder does not see the whole of a typical photo."""
        if advice := unseen_advice(records, encoder.image_size, encoder.resize):
            self._say(advice)

    def fit_vectors(self, encoder: PhotoEncoder, records: Sequence[Record]) -> RawVectors:
        """Raw vectors of those of the photos that can be read. Raises DataError where none can."""
        found: dict[str, RawVectors] = {}
        unreadable: dict[str, str] = {}
        with StepReport("fitting the feature space", self._console) as report:
            for start in self._starts(len(records)):
                some = records[start : start + _BATCH_SIZE]
                found |= _raw_vectors(encoder, some, unreadable)
                report(min(start + self.processes.count * _BATCH_SIZE, len(records)), len(records))
        for encoded, failed in self.processes.gather((found, unreadable)):
            self._raw |= encoded
            self._unreadable |= failed
        if not self._raw:
            self._tell_unreadable()
            raise DataError(f"none of {counted(len(records), 'photo')} can be read, and an index is fitted on photos")
        in_order = [self._raw[record.id] for record in records if record.id in self._raw]
        return {part: torch.stack([vectors[part] for vectors in in_order]) for part in parts_of(encoder.kind)}

    def add(self, index: Index, records: Sequence[Record]) -> None:
        """Encode what the index lacks, add it step by step, and say what became of the photos."""
        num_added = num_known = 0
        with ExitStack() as stack, StepReport("adding photos", self._console) as report:
            self.processes.first(lambda: stack.enter_context(index.store.writing()))
            for first in range(0, len(records), COMMIT_PHOTOS):
                some = records[first : first + COMMIT_PHOTOS]
                shares = self.processes.gather(self._encoded(index, some))
                rows = [row for share in shares for row in zip(share.photos, share.vectors, strict=True)]
                rows.sort(key=lambda row: row[0][0])
                photos, vectors = [photo for (_, photo), _ in rows], [vector for _, vector in rows]
                if photos:
                    self.processes.first(partial(index.store.add, photos, torch.stack(vectors)))
                num_added += len(photos)
                num_known += sum(share.num_known for share in shares)
                for share in shares:
                    self._unreadable |= share.unreadable
                report(first + len(some), len(records))
            self.processes.first(index.store.prepare)
        self._tell_unreadable()
        self._say(
            f"{counted(num_added, 'photo')} added, {num_known:,} {'was' if num_known == 1 else 'were'} in already, "
            f"{len(self._unreadable):,} cannot be read; {index.store.name} holds {len(index):,}, features "
            f"{index.features_name}"
        )
        if index.store.advice is not None:
            self._say(index.store.advice)
        left_out, done = len(self._unreadable), "the others are in the index"
        self.processes.first(lambda: check_unreadable(left_out, len(records), done))

    def _encoded(self, index: Index, records: Sequence[Record]) -> _Share:
        """This process's part of the photos, without those that are in."""
        share = _Share([], [], {}, 0)
        num_known = 0
        for start in self._starts(len(records)):
            lasting = [_lasting(record) for record in records[start : start + _BATCH_SIZE]]
            known = index.store.known(lasting)
            new = {
                start + place: (record, photo)
                for place, (record, photo) in enumerate(zip(records[start : start + _BATCH_SIZE], lasting, strict=True))
                if photo.key not in known
            }
            num_known += len(lasting) - len(new)
            missing = [record for record, _ in new.values() if record.id not in self._raw]
            raw = self._raw | _raw_vectors(index.encoder, missing, share.unreadable)
            readable = {place: one for place, one in new.items() if one[0].id in raw}
            if readable:
                vectors = _stacked([raw[record.id] for record, _ in readable.values()])
                share.vectors.extend(index.store.space(vectors))
                share.photos.extend((place, photo) for place, (_, photo) in readable.items())
        return share._replace(num_known=num_known)

    def _starts(self, count: int) -> range:
        """Where this process's batches begin: the batches, and so the vectors, are those of one process alone."""
        return range(self.processes.rank * _BATCH_SIZE, count, self.processes.count * _BATCH_SIZE)

    def _tell_unreadable(self) -> None:
        for name, reason in list(self._unreadable.items())[:_SHOWN_UNREADABLE]:
            self._say(f"left out {name}: {reason}")
        if len(self._unreadable) > _SHOWN_UNREADABLE:
            self._say(f"left out {len(self._unreadable) - _SHOWN_UNREADABLE:,} more")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)


def _raw_vectors(encoder: PhotoEncoder, records: Sequence[Record], unreadable: dict[str, str]) -> dict[str, RawVectors]:
    """Raw vectors by id; why a photo cannot be read goes to `unreadable`."""
    found: dict[str, RawVectors] = {}

    def leave_out(record: Record, reason: str) -> None:
        unreadable[record.id] = reason

    for batch in encoder.batches(records, batch_size=_BATCH_SIZE, on_unreadable=leave_out):
        vectors = encoder.vectors(batch)
        for row, record in enumerate(batch.records):
            found[record.id] = {part: values[row].clone() for part, values in vectors.items()}
    return found


def _stacked(vectors: Sequence[RawVectors]) -> RawVectors:
    return {part: torch.stack([one[part] for one in vectors]) for part in vectors[0]}


def _lasting(record: Record) -> IndexedPhoto:
    """What the index keeps of a photo; `photo_records` gives ids and classes that are valid text."""
    path = as_text(str(record.picture.resolve())) if isinstance(record.picture, Path) else ""
    content = content_digest(record) or ""
    return IndexedPhoto(record.id, path, record.label, None if record.caption is None else str(record.caption), content)
