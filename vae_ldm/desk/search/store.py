"""What an index of photos holds, wherever it lies: a folder of this machine, or a table that many desks share."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor

from vae_ldm.choices import FeatureKind
from vae_ldm.errors import DataError
from vae_ldm.latent_space.features import FeatureSpace
from vae_ldm.stored_json import StoredKind

KIND = StoredKind(newest=3, digest_from=3, cure="restore it, or delete it and build the index anew", error=DataError)
"""The kind of the facts of an index. Version 0.1.0 wrote format 2 without a digest; it is read as it was meant."""


@dataclass(frozen=True)
class IndexedPhoto:
    """One photo as a result names it."""

    id: str
    path: str
    """Where it lay when it was added."""
    label: str | None
    caption: str | None
    content: str
    """SHA-256 of the file."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same photo when it is added again: its id and its content."""
        return self.id, self.content


@dataclass(frozen=True)
class Match:
    """An indexed photo and the cosine of its vector and a query's, in [-1, 1]."""

    photo: IndexedPhoto
    similarity: float


@dataclass(frozen=True)
class IndexFacts:
    """What the vectors of an index are."""

    model: str
    """Where the autoencoder was when the index was built."""
    kind: FeatureKind
    backbone: str | None
    """Where the backbone was; None: the built-in one."""
    features: str
    """What stands beside every similarity."""
    encoder: dict[str, Any]
    """All that raw vectors follow from, as JSON: only vectors of equal encoders can be compared."""

    @classmethod
    def from_json(cls, where: str, stored: Any) -> Self:
        """The facts among checked content of an index. Raises DataError, which begins with `where`, for any others."""
        if stored["format"] < 2:
            raise DataError(f"{where}: built by an older vae_ldm, whose features were weighed otherwise; build it anew")
        return KIND.typed(where, cls, stored)


class PhotoStore(Protocol):
    """Photos and their unit vectors."""

    name: str
    """What messages call it."""
    facts: IndexFacts
    space: FeatureSpace

    def __len__(self) -> int: ...

    @property
    def advice(self) -> str | None:
        """A line about how to make searching faster, where there is one."""

    def writing(self) -> AbstractContextManager[None]:
        """Around `add`: RunError where the store takes one writer at a time and another is at work."""

    def known(self, photos: Collection[IndexedPhoto]) -> set[tuple[str, str]]:
        """Keys of the photos that are in: one of the same content has the same id, or lies at the same path."""

    def add(self, photos: Sequence[IndexedPhoto], vectors: Tensor) -> None:
        """Take in all of the photos with their vectors [N, dim], or none."""

    def prepare(self) -> None:
        """Make searching fast for what has been added."""

    def search(self, queries: Tensor, k: int) -> Iterator[list[Match]]:
        """The k photos nearest to each of the unit vectors [Q, dim], the nearest first."""
