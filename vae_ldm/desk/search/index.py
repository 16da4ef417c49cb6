"""Photos that can be searched by photo: an index, in a folder or in PostgreSQL, with the encoder it was built with."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_ldm.data.photo_stream import PhotoBatch, Photos, records_of
from vae_ldm.data.sources import Record, photo_digest
from vae_ldm.desk.backbone import lasting_backbone
from vae_ldm.desk.encoder import PhotoEncoder, lasting_model, stored_model
from vae_ldm.desk.search.folder_store import IndexFolder
from vae_ldm.desk.search.postgres_store import PostgresIndex
from vae_ldm.desk.search.store import IndexedPhoto, IndexFacts, PhotoStore
from vae_ldm.errors import DataError, WeightsError
from vae_ldm.latent_space.features import FeaturePart, FeatureSpace, parts_of
from vae_ldm.starter import STARTER, other_starter

_OF_THE_AUTOENCODER = frozenset({"autoencoder", "image_size", "resize", "channels"})
"""What the vectors of an index follow from, apart from the backbone."""


@dataclass(frozen=True)
class Hit:
    """A photo of the index and how alike it is to the one that was asked for."""

    photo: IndexedPhoto
    similarity: float
    """The cosine of the two vectors, in [-1, 1]."""
    same_photo: bool
    """Whether it is that photo itself, byte for byte."""


class Index:
    """Answers which photos are most like a photo.

    >>> import vae_ldm
    >>> index = vae_ldm.open_index("claims.index")
    >>> (hits,) = index.query("photos/dent-1.jpg", k=5)
    """

    def __init__(self, store: PhotoStore, encoder: PhotoEncoder) -> None:
        self.store, self.encoder = store, encoder

    @property
    def features_name(self) -> str:
        """What stands beside every similarity."""
        return self.store.facts.features

    def __len__(self) -> int:
        return len(self.store)

    def vectors(self, batch: PhotoBatch) -> Tensor:
        """Unit vectors [B, dim] of photos that `encoder.batches` has decoded."""
        return self.store.space(self.encoder.vectors(batch))

    def query(self, photos: Photos | PhotoBatch, k: int = 10) -> list[list[Hit]]:
        """The k photos most like each photo, the most alike first; the photo itself is extra, as often as the index
        holds it.

        Photos are paths, Pillow images, arrays, tensors or records, one or several; a folder is all of its photos.
        Raises DataError where a photo cannot be read, or the index is empty.
        """
        if isinstance(photos, PhotoBatch):
            batches: Iterable[PhotoBatch] = [photos]
        else:
            batches = self.encoder.batches(records_of(photos), on_unreadable=_refuse)
        return [hits for batch in batches for hits in self.nearest(batch.records, self.encoder.vectors(batch), k)]

    def nearest(self, records: Sequence[Record], raw: Mapping[FeaturePart, Tensor], k: int = 10) -> Iterator[list[Hit]]:
        """`query` of photos whose raw vectors, those of `encoder.vectors`, are known already."""
        vectors = self.store.space(raw)
        found = self.store.search(vectors, k + 1)
        for row, (record, matches) in enumerate(zip(records, found, strict=True)):
            content, asked = photo_digest(record), k + 1
            while (wanted := k + sum(match.photo.content == content for match in matches)) > asked == len(matches):
                asked = wanted
                (matches,) = self.store.search(vectors[row : row + 1], asked)
            yield [Hit(match.photo, match.similarity, match.photo.content == content) for match in matches[:wanted]]


def open_index(
    index: Path | str, *, store: str | None = None, model: str | None = None, device: torch.device | None = None
) -> Index:
    """The index in a folder, or of this name in the database `store`.

    `model` says where its autoencoder lies now, by default where it lay when the index was built, if that is on this
    machine: a stored name makes no download.

    Raises DataError where there is no index or it is damaged, WeightsError where the model cannot be opened or is
    another one, RunError where the database cannot be reached.
    """
    found = open_store(index, store)
    facts = found.facts
    encoder = PhotoEncoder(
        model or stored_model(facts.model, found.name),
        kind=facts.kind,
        backbone=facts.backbone,
        backbone_downloads=False,
        device=device,
    )
    check_encoder(found, encoder)
    return Index(found, encoder)


def open_store(index: Path | str, store: str | None) -> PhotoStore:
    """The photos and vectors of an index, without its encoder. Raises as `open_index`."""
    return IndexFolder(Path(index)) if store is None else PostgresIndex(store, str(index))


def create_store(index: Path | str, store: str | None, facts: IndexFacts, space: FeatureSpace) -> None:
    """Make an empty index. Raises VaeLdmError where something is in its place."""
    if store is None:
        IndexFolder.create(Path(index), facts, space)
    else:
        PostgresIndex.create(store, str(index), facts, space)


def has_store(index: Path | str, store: str | None) -> bool:
    """Whether there is an index to be opened."""
    return IndexFolder.exists(Path(index)) if store is None else PostgresIndex.exists(store, str(index))


def index_facts(encoder: PhotoEncoder, backbone: str | None) -> IndexFacts:
    """What an index says of vectors that this encoder made."""
    parts = parts_of(encoder.kind)
    return IndexFacts(
        model=lasting_model(encoder.source),
        kind=encoder.kind,
        backbone=lasting_backbone(backbone),
        features=encoder.features_name,
        encoder={
            "autoencoder": encoder.digest if "latents" in parts else None,
            "backbone": encoder.backbone_digest,
            "image_size": list(encoder.image_size),
            "backbone_size": list(encoder.backbone_size),
            "resize": encoder.resize,
            "channels": encoder.channels,
        },
    )


def check_encoder(store: PhotoStore, encoder: PhotoEncoder) -> None:
    """Raise WeightsError where the encoder's vectors cannot be compared with those of the index."""
    expected, found = store.facts.encoder, index_facts(encoder, None).encoder
    different = [name for name in found if found[name] != expected.get(name)]
    if different:
        if encoder.name == store.facts.model == STARTER and _OF_THE_AUTOENCODER.intersection(different):
            raise WeightsError(other_starter(f"{store.name}: was built", "build the index anew"))
        what = " and ".join(name.replace("_", " ") for name in different)
        raise WeightsError(
            f"{store.name}: was built with another model than {encoder.name} (another {what}); name "
            f"{store.facts.model} with --model, or build the index anew"
        )


def _refuse(record: Record, reason: str) -> Any:
    raise DataError(f"{record.place}: cannot be read ({reason})")
