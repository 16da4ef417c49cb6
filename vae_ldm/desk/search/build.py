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
from torch import Tensor

from vae_ldm.choices import FeatureKind
from vae_ldm.data.names import as_text
from vae_ldm.data.sources import Record, photo_digest
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.encoder import PhotoEncoder, stored_model
from vae_ldm.desk.search.index import (
    Index,
    check_encoder,
    create_store,
    has_store,
    index_facts,
    open_index,
    open_store,
)
from vae_ldm.desk.search.store import IndexedPhoto
from vae_ldm.errors import VaeLdmError
from vae_ldm.latent_space.features import FeaturePart, FeatureSpace, parts_of
from vae_ldm.text import counted

FIT_PHOTOS = 2048
"""Photos, evenly spread, on which the feature space of a new index is fitted."""
COMMIT_PHOTOS = 512
"""Photos that are added at one stroke: what a killed command loses at most."""

RawVectors = dict[FeaturePart, Tensor]


def build_index(
    index: Path | str,
    photos: Path,
    *,
    model: str | None = None,
    kind: FeatureKind = "both",
    backbone: str | None = None,
    store: str | None = None,
    caption_column: str | None = None,
    told: set[str] | None = None,
) -> Index:
    """A new index of the photos; where there is one of the same model and features, that one, with what it lacked.

    Without `model` an index that exists goes on with its own, and a new one is made with the starter. `told` is
    that of DeskCommand. Raises DataError and WeightsError for what cannot be opened, VaeLdmError where another index is
    in the way; at the end ManyUnreadableError where more than one in a hundred of the photos was left out.
    """
    work = _Work(told)
    records = work.command.photo_records(photos, caption_column=caption_column)
    source = work.model_of(index, store) if model is None else model
    encoder = PhotoEncoder(source, kind=kind, backbone=backbone, device=work.command.processes.device)
    work.tell_of_model(encoder, records)
    if not work.command.processes.first(lambda: has_store(index, store)):
        chosen = np.linspace(0, len(records) - 1, min(FIT_PHOTOS, len(records))).astype(int)
        vectors = work.fit_vectors(encoder, [records[row] for row in chosen])
        facts = index_facts(encoder, backbone)
        work.command.processes.first(lambda: create_store(index, store, facts, FeatureSpace.fit(kind, vectors)))
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
    records = work.command.photo_records(photos, caption_column=caption_column)
    opened = open_index(index, store=store, model=model, device=work.command.processes.device)
    work.tell_of_model(opened.encoder, records)
    work.add(opened, records)
    return opened


class _Share(NamedTuple):
    """What has been made of one batch of photos."""

    photos: list[IndexedPhoto]
    vectors: list[Tensor]
    unreadable: dict[str, str]
    num_known: int


class _Work:
    """Encodes photos for one index; of several processes the first one writes."""

    def __init__(self, told: set[str] | None = None) -> None:
        self.command = DeskCommand(launched=True, told=told)
        self._raw: dict[str, RawVectors] = {}  # what was encoded for the fit is not encoded again
        self._unreadable: dict[str, str] = {}  # told once, whether for the fit or for the index

    def model_of(self, index: Path | str, store: str | None) -> str:
        """The model of an index that exists, where nobody names one; else the starter. It is told."""
        if not self.command.processes.first(lambda: has_store(index, store)):
            return self.command.starter()
        opened = open_store(index, store)
        self.command.say(f"{opened.name}: goes on with its own model, {opened.facts.model}")
        return stored_model(opened.facts.model, opened.name)

    def tell_of_model(self, encoder: PhotoEncoder, records: Sequence[Record]) -> None:
        """Say so where the model sees a part of a typical photo only, or does not know such photos well."""
        self.command.tell_unseen(records, encoder.image_size, encoder.resize)
        self.command.tell_foreign(encoder.source, encoder.autoencoder, records)

    def fit_vectors(self, encoder: PhotoEncoder, records: Sequence[Record]) -> RawVectors:
        """Raw vectors of those of the photos that can be read. Raises DataError where none can."""
        with self.command.progress("encoding photos to fit the feature space") as report:
            shares = self.command.share_batches(records, partial(_raw_vectors, encoder), report=report, everywhere=True)
        for encoded, failed in shares:
            self._raw |= encoded
            self._unreadable |= failed
        if not self._raw:
            self.command.unreadable.extend(self._unreadable.items())
            self.command.refuse_all_left_out(counted(len(records), "photo"))
        in_order = [self._raw[record.id] for record in records if record.id in self._raw]
        return {part: torch.stack([vectors[part] for vectors in in_order]) for part in parts_of(encoder.kind)}

    def add(self, index: Index, records: Sequence[Record]) -> None:
        """Encode what the index lacks, add it step by step, and say what became of the photos."""
        num_added = num_known = 0
        with ExitStack() as stack, self.command.progress("adding photos") as report:
            self.command.processes.first(lambda: stack.enter_context(index.store.writing()))
            for first in range(0, len(records), COMMIT_PHOTOS):
                some = records[first : first + COMMIT_PHOTOS]
                shares = self.command.share_batches(some, partial(self._encoded, index))
                photos = [photo for share in shares for photo in share.photos]
                vectors = [vector for share in shares for vector in share.vectors]
                self.command.processes.first(partial(_add, index, photos, vectors))
                num_added += len(photos)
                num_known += sum(share.num_known for share in shares)
                for share in shares:
                    self._unreadable |= share.unreadable
                report(first + len(some), len(records))
            self.command.processes.first(index.store.prepare)
        self.command.unreadable.extend(self._unreadable.items())
        self.command.tell_left_out()
        self.command.say(
            f"{counted(num_added, 'photo')} added, {num_known:,} {'was' if num_known == 1 else 'were'} in already, "
            f"{len(self._unreadable):,} cannot be read; {index.store.name} holds {len(index):,}, features "
            f"{index.features_name}"
        )
        if index.store.advice is not None:
            self.command.say(index.store.advice)
        self.command.check_left_out(len(records), "the others are in the index")

    def _encoded(self, index: Index, records: Sequence[Record]) -> _Share:
        """One batch of the photos, without those that are in."""
        lasting = [_lasting(record) for record in records]
        known = index.store.known(lasting)
        new = [(record, photo) for record, photo in zip(records, lasting, strict=True) if photo.key not in known]
        missing = [record for record, _ in new if record.id not in self._raw]
        encoded, unreadable = _raw_vectors(index.encoder, missing)
        raw = self._raw | encoded
        readable = [(record, photo) for record, photo in new if record.id in raw]
        vectors = [*index.store.space(_stacked([raw[record.id] for record, _ in readable]))] if readable else []
        return _Share([photo for _, photo in readable], vectors, unreadable, len(lasting) - len(new))


def _add(index: Index, photos: Sequence[IndexedPhoto], vectors: Sequence[Tensor]) -> None:
    if photos:
        index.store.add(photos, torch.stack(list(vectors)))


def _raw_vectors(encoder: PhotoEncoder, records: Sequence[Record]) -> tuple[dict[str, RawVectors], dict[str, str]]:
    """Raw vectors by id, and by id why a photo cannot be read."""
    found: dict[str, RawVectors] = {}
    unreadable: dict[str, str] = {}

    def leave_out(record: Record, reason: str) -> None:
        unreadable[record.id] = reason

    for batch in encoder.batches(records, on_unreadable=leave_out):
        vectors = encoder.vectors(batch)
        for row, record in enumerate(batch.records):
            found[record.id] = {part: values[row].clone() for part, values in vectors.items()}
    return found, unreadable


def _stacked(vectors: Sequence[RawVectors]) -> RawVectors:
    return {part: torch.stack([one[part] for one in vectors]) for part in vectors[0]}


def _lasting(record: Record) -> IndexedPhoto:
    """What the index keeps of a photo; `photo_records` gives ids and classes that are valid text."""
    path = as_text(str(record.picture.resolve())) if isinstance(record.picture, Path) else ""
    content = photo_digest(record) or ""
    return IndexedPhoto(record.id, path, record.label, None if record.caption is None else str(record.caption), content)
