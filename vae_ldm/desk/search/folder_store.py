"""An index in a folder: parts that never change, and index.json, which says which of them count.

A part is written whole before index.json names it, and index.json is replaced at one stroke: whatever is interrupted
leaves the index as it was before. Every file is checked against its SHA-256 when it is read, index.json as well: it is
of format 3. One of format 2, which holds no digest of itself, becomes one of format 3 when photos are added.
"""

import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vae_ldm.desk.search.store import KIND, IndexedPhoto, IndexFacts, Match
from vae_ldm.desk.search.stored_vectors import VectorRows, mapped_vectors
from vae_ldm.errors import DataError, VaeLdmError, first_line
from vae_ldm.files import locked, remove_abandoned, write_whole
from vae_ldm.latent_space.features import FeatureSpace
from vae_ldm.latent_space.vector_index import FAISS_ABOVE, ExactIndex, FaissIndex, VectorIndex, has_faiss
from vae_ldm.paths import check_index_place
from vae_ldm.text import counted

_INDEX, _SPACE, _LOCK = "index.json", "space.safetensors", "lock"
_OURS = re.compile(r"(part-\d+\.(npy|parquet)|neighbours-\d+\.faiss)(\.part)?")
_PART_ROWS = 4096
"""Rows from which on a part is closed; a smaller one is rewritten with what is added next."""
_TRAIN_AGAIN = 4
"""Times as many vectors as its lists were made for, from which on a faiss index is made anew."""
_ROWS_AT_ONCE = 65_536
_FIELDS = tuple(IndexedPhoto.__dataclass_fields__)
_SCHEMA = pa.schema([(name, pa.string()) for name in _FIELDS])
_NEVER_EMPTY = ("id", "path", "content")
_UNREADABLE = (KeyError, TypeError, ValueError, OSError, MemoryError, SafetensorError, pa.ArrowException)
"""What readers raise for files that this program has not written."""


@dataclass(frozen=True)
class _Part:
    """Some of the photos: part-NUMBER.parquet, and their vectors in part-NUMBER.npy, with a digest of each file."""

    number: int
    rows: int
    photos: str
    vectors: str


@dataclass(frozen=True)
class _Neighbours:
    """neighbours-ROWS.faiss, whose lists were made for so many vectors."""

    rows: int
    made_for: int
    digest: str


@dataclass(frozen=True)
class _Listed:
    """The files that count, as index.json lists them."""

    space: str
    parts: list[_Part]
    neighbours: _Neighbours | None


class IndexFolder:
    """The index in an existing folder; a `PhotoStore`."""

    _photos: pa.Table
    _known: set[tuple[str, str]] | None
    """Content and name of the photos in the index; None until they are asked for."""
    _searched: VectorIndex | None
    """The index of the stored vectors; None until the first search."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where there is none, or where a file of it is damaged."""
        self.path, self.name = path, str(path)
        if not self.exists(path):
            raise DataError(f"{path}: no index here (it has no {_INDEX}); make one with vae-ldm index build")
        self._reload()

    @classmethod
    def create(cls, path: Path, facts: IndexFacts, space: FeatureSpace) -> Self:
        """A new, empty index. Raises VaeLdmError where the folder holds anything else."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise VaeLdmError(f"{path}: is a file; name a folder for the index") from None
        with _writing(path):
            if (path / _INDEX).exists():
                raise VaeLdmError(f"{path}: holds an index already; name another folder")
            check_index_place(path)
            digest = _write(path / _SPACE, save(space.tensors()))
            _write_json(path / _INDEX, {**asdict(facts), "space": digest, "parts": [], "neighbours": None})
        return cls(path)

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether the folder holds an index."""
        return (path / _INDEX).is_file()

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def advice(self) -> str | None:
        """A line about how to make searching faster, where there is one."""
        if len(self) > FAISS_ABOVE and not has_faiss():
            return f"{len(self):,} photos are compared one by one; pip install 'vae_ldm[search]' makes that faster"
        return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around `add`: nobody else writes meanwhile. RunError where another process does."""
        with _writing(self.path):
            self._reload()  # what others have added since it was opened
            self._sweep()
            yield

    def known(self, photos: Collection[IndexedPhoto]) -> set[tuple[str, str]]:
        """Keys of the photos that are in: one of the same content has the same id, or lies at the same path."""
        if self._known is None:
            ids, paths, contents = (self._photos.column(name).to_pylist() for name in ("id", "path", "content"))
            self._known = {*zip(ids, contents, strict=True), *zip(paths, contents, strict=True)}
        known = self._known
        return {
            photo.key for photo in photos if photo.key in known or (photo.path and (photo.path, photo.content) in known)
        }

    def add(self, photos: Sequence[IndexedPhoto], vectors: Tensor) -> None:
        """Take in all of the photos with their vectors [N, dim], or none; within `writing`."""
        assert vectors.shape == (len(photos), self.space.dim), f"{len(photos)} photos, vectors {tuple(vectors.shape)}"
        if not photos:
            return
        parts = list(self._index["parts"])
        last = parts.pop() if parts and parts[-1]["rows"] < _PART_ROWS else None
        kept = last["rows"] if last is not None else 0
        table = pa.Table.from_pylist([vars(photo) for photo in photos], schema=_SCHEMA)
        whole_table = pa.concat_tables([self._photos.slice(len(self) - kept), table])
        whole_vectors = np.concatenate([self._vectors(np.arange(len(self) - kept, len(self))), vectors.numpy()])
        number = 1 + max((part["number"] for part in self._index["parts"]), default=-1)
        stem = self.path / f"part-{number:06d}"
        parts.append(
            {
                "number": number,
                "rows": kept + len(photos),
                "photos": _write(stem.with_suffix(".parquet"), _parquet(whole_table)),
                "vectors": _write(stem.with_suffix(".npy"), _npy(whole_vectors)),
            }
        )
        self._replace_index(parts=parts)
        self._photos = pa.concat_tables([self._photos, table])
        self._vectors.append(vectors.numpy())
        self._searched = None
        if self._known is not None:
            self._known.update(pair for photo in photos for pair in (photo.key, (photo.path, photo.content)))
        self._sweep()

    def prepare(self) -> None:
        """Keep a faiss index of the vectors beside them, where there are too many to compare with all; in `writing`."""
        before = self._index["neighbours"]
        if len(self) <= FAISS_ABOVE or not has_faiss() or (before is not None and before["rows"] == len(self)):
            return
        neighbours, made_for = self._neighbours()
        file = self.path / f"neighbours-{len(self)}.faiss"
        digest = _write(file, neighbours.to_bytes())
        self._replace_index(neighbours={"rows": len(self), "made_for": made_for, "digest": digest})
        self._searched = None
        self._sweep()

    def search(self, queries: Tensor, k: int) -> Iterator[list[Match]]:
        """The k photos nearest to each of the unit vectors [Q, dim], the nearest first, all where there are fewer."""
        if not len(self):
            raise DataError(f"{self.path}: holds no photos yet; add some with vae-ldm index add")
        if self._searched is None:
            self._searched = self._searchable()
        try:
            nearest = self._searched.search(queries, k)
        except ValueError as error:
            raise KIND.damaged(self.path, first_line(error)) from None
        for similarities, rows in zip(*nearest, strict=True):
            photos = self._photos.take(rows.numpy()).to_pylist()
            yield [
                Match(IndexedPhoto(**photo), similarity)
                for photo, similarity in zip(photos, similarities.tolist(), strict=True)
            ]

    def _searchable(self) -> VectorIndex:
        if len(self) > FAISS_ABOVE and has_faiss():
            return self._neighbours()[0]
        exact = ExactIndex(self.space.dim)
        exact.add(torch.from_numpy(self._vectors(np.arange(len(self)))))
        return exact

    def _neighbours(self) -> tuple[FaissIndex, int]:
        """A faiss index of all vectors, from its file where that still serves, and for how many it was made."""
        stored = self._index["neighbours"]
        if stored is not None and len(self) < _TRAIN_AGAIN * stored["made_for"]:
            opened = self._from_file(stored["rows"], stored["digest"])
            if opened is not None:
                return self._completed(opened), stored["made_for"]
        chosen = np.random.default_rng(0).choice(len(self), FaissIndex.training_size(len(self)), replace=False)
        sample = self._vectors(np.sort(chosen))
        return self._completed(FaissIndex.train(sample, num_vectors=len(self), lookup=self._vectors)), len(self)

    def _from_file(self, rows: int, digest: str) -> FaissIndex | None:
        """The stored faiss index; None for one that is lost, damaged or of other vectors: it follows from these."""
        file = self.path / f"neighbours-{rows}.faiss"
        if not file.is_file() or _digest_of(file) != digest:
            return None
        try:
            opened = FaissIndex.open(file, self._vectors, grows=rows < len(self))
        except ValueError:
            return None
        return opened if (opened.dim, len(opened)) == (self.space.dim, rows) and rows <= len(self) else None

    def _completed(self, neighbours: FaissIndex) -> FaissIndex:
        """The faiss index, completed with the rows that it lacks."""
        while len(neighbours) < len(self):
            rows = np.arange(len(neighbours), min(len(neighbours) + _ROWS_AT_ONCE, len(self)))
            neighbours.add(torch.from_numpy(self._vectors(rows)))
        return neighbours

    def _reload(self) -> None:
        """Read all anew. A writer may replace parts at any moment: what is gone may only be gone from the index."""
        while True:
            index = self._read_index()
            try:
                self._read(index)
            except DataError:
                if index == self._read_index():
                    raise
            else:
                return

    def _read_index(self) -> dict[str, Any]:
        file = self.path / _INDEX
        try:
            return KIND.read(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); {KIND.cure}") from None

    def _read(self, index: dict[str, Any]) -> None:
        file = self.path / _INDEX
        self.facts = IndexFacts.from_json(str(file), index)
        listed = KIND.typed(file, _Listed, index)
        if any(part.number < 0 or part.rows < 1 for part in listed.parts):
            raise KIND.damaged(file, "it lists a part with a name that no part has")
        self._index = {**asdict(self.facts), **asdict(listed)}
        try:
            self.space = FeatureSpace.from_tensors(self.facts.kind, load(self._checked(_SPACE, listed.space)))
            tables, self._vectors = [_SCHEMA.empty_table()], VectorRows(self.space.dim)
            for part in listed.parts:
                stem = f"part-{part.number:06d}"
                table = pq.read_table(pa.BufferReader(self._checked(f"{stem}.parquet", part.photos)))
                self._checked(f"{stem}.npy", part.vectors, give=False)
                vectors = mapped_vectors(self.path / f"{stem}.npy", (part.rows, self.space.dim))
                if len(table) != part.rows:
                    photos, rows = counted(len(table), "photo"), counted(part.rows, "vector")
                    raise KIND.damaged(file, f"{stem} holds {photos} and {rows}")
                if any(table.column(name).null_count for name in _NEVER_EMPTY):
                    raise KIND.damaged(file, f"{stem} holds photos without a name")
                tables.append(table)
                self._vectors.append(vectors)
            self._photos = pa.concat_tables(tables)
        except _UNREADABLE as error:
            if isinstance(error, DataError):
                raise
            raise KIND.damaged(file, first_line(error)) from None
        self._known = None
        self._searched = None

    def _checked(self, name: str, digest: str, *, give: bool = True) -> bytes:
        """The bytes of a file. Raises DataError where they are not those that were written."""
        file = self.path / name
        try:
            content = file.read_bytes() if give else b""
            found = hashlib.sha256(content).hexdigest() if give else _digest_of(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); {KIND.cure}") from None
        if found != digest:
            raise KIND.damaged(file, "its digest is another")
        return content

    def _replace_index(self, **changes: Any) -> None:
        self._index = {**self._index, **changes}
        _write_json(self.path / _INDEX, self._index)

    def _sweep(self) -> None:
        """Delete what an interrupted or finished `add` has left and index.json does not name."""
        named = {f"part-{part['number']:06d}.{end}" for part in self._index["parts"] for end in ("npy", "parquet")}
        if self._index["neighbours"] is not None:
            named.add(f"neighbours-{self._index['neighbours']['rows']}.faiss")
        for file in list(self.path.iterdir()):
            if _OURS.fullmatch(file.name) and file.name not in named:
                file.unlink()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Hold the folder; RunError where another process does. The lock dies with the process."""
    with locked(path / _LOCK, f"{path}: another process is adding photos"):
        remove_abandoned(path)
        yield


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _write_json(path: Path, content: Any) -> None:
    _write(path, json.dumps(KIND.with_digest(content), indent=1).encode())


def _write(path: Path, content: bytes) -> str:
    """Write a file as a whole; gives its SHA-256."""
    write_whole(path, content, synced=True)
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
