"""Nearest vectors by cosine: each compared by torch, or the likely ones by faiss where there are too many."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from vae_ldm.errors import first_line

FAISS_ABOVE = 100_000
"""Vectors up to which comparing with all of them is fast enough (`benchmarks/search_scale.py`)."""

_QUERIES_AT_ONCE, _ROWS_AT_ONCE = 64, 65_536
# 64 vectors a list to train on is between the 39 that faiss asks for and the 256 above which it drops some.
_TRAINING_VECTORS_PER_LIST = 64
_PROBES = 224
"""Lists that are read for a query. They hold .99, .98 and .99 of the ten nearest among 100,001, 250,000 and 500,000
vectors in 2,000 noisy clusters; 64 lists held .90, .93 and .94."""
_CANDIDATES_PER_RESULT, _FEWEST_CANDIDATES = 4, 64


class Nearest(NamedTuple):
    """The k nearest rows of each of Q queries, or all where there are fewer."""

    similarities: Tensor
    """Cosines [Q, k], falling."""
    rows: Tensor
    """int64 [Q, k]; of equal similarities the smaller row comes first."""


class VectorIndex(Protocol):
    """Unit vectors, numbered in the order in which they are added."""

    def add(self, vectors: Tensor) -> None:
        """Take in vectors [N, dim]."""

    def search(self, queries: Tensor, k: int) -> Nearest:
        """The nearest of the rows to each of the unit vectors [Q, dim]."""

    def __len__(self) -> int: ...


class ExactIndex:
    """Every query is compared with every vector."""

    def __init__(self, dim: int) -> None:
        self._vectors = torch.empty(0, dim)
        self._added: list[Tensor] = []

    def add(self, vectors: Tensor) -> None:
        """Take in vectors [N, dim]."""
        self._added.append(vectors)

    def search(self, queries: Tensor, k: int) -> Nearest:
        """The nearest of all rows to each of the unit vectors [Q, dim]."""
        if self._added:
            self._vectors, self._added = torch.cat([self._vectors, *self._added]), []
        found = [self._search(some, min(k, len(self))) for some in queries.split(_QUERIES_AT_ONCE)]
        return Nearest(torch.cat([one.similarities for one in found]), torch.cat([one.rows for one in found]))

    def _search(self, queries: Tensor, k: int) -> Nearest:
        best = Nearest(torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long))
        for first in range(0, len(self._vectors), _ROWS_AT_ONCE):
            here = _largest(queries @ self._vectors[first : first + _ROWS_AT_ONCE].T, k)
            similarities = torch.cat([best.similarities, here.similarities], dim=1)
            rows = torch.cat([best.rows, here.rows + first], dim=1)
            similarities, order = similarities.sort(dim=1, descending=True, stable=True)
            best = Nearest(similarities[:, :k], rows.gather(1, order)[:, :k])
        return best

    def __len__(self) -> int:
        return len(self._vectors) + sum(map(len, self._added))


def _largest(similarities: Tensor, k: int) -> Nearest:
    """The k largest of each row [Q, M] and their columns, of equal ones those that come first."""
    k = min(k, similarities.shape[1])
    lowest = similarities.topk(k, dim=1).values[:, -1:]
    found = []
    for values, reaches in zip(similarities, similarities >= lowest, strict=True):
        # topk leaves open which of several equal values it takes; a stable sort of all that reach the k-th does not.
        columns = reaches.nonzero()[:, 0]
        ordered, order = values[columns].sort(descending=True, stable=True)
        found.append((ordered[:k], columns[order[:k]]))
    return Nearest(torch.stack([values for values, _ in found]), torch.stack([columns for _, columns in found]))


def has_faiss() -> bool:
    """Whether faiss is installed: `pip install 'vae_ldm[search]'`."""
    return importlib.util.find_spec("faiss") is not None


class FaissIndex:
    """Vectors in lists of neighbours, a byte a number (faiss IVF, SQ8); few lists are read for a query.

    The candidates are compared again with the vectors themselves, which `lookup` gives for ascending rows, int64 [n],
    as float32 [n, dim]. Similarities are therefore exact; a neighbour is missed if its list was not read.
    """

    def __init__(self, index: Any, lookup: Callable[[np.ndarray], np.ndarray]) -> None:
        self._index, self._lookup = index, lookup

    @classmethod
    def train(cls, sample: np.ndarray, *, num_vectors: int, lookup: Callable[[np.ndarray], np.ndarray]) -> Self:
        """An empty index made for about `num_vectors`, its lists placed by a random sample of them [n, dim]."""
        import faiss

        lists = _num_lists(num_vectors)
        index = faiss.index_factory(sample.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(sample)
        return cls(index, lookup)

    @staticmethod
    def training_size(num_vectors: int) -> int:
        """How many of so many vectors `train` should be given."""
        return min(num_vectors, _TRAINING_VECTORS_PER_LIST * _num_lists(num_vectors))

    @property
    def description(self) -> str:
        """The index as faiss describes it."""
        return f"IVF{self._index.nlist},SQ8, {min(_PROBES, self._index.nlist)} lists read"

    def add(self, vectors: Tensor) -> None:
        """Take in vectors [N, dim]."""
        self._index.add(vectors.numpy())

    def search(self, queries: Tensor, k: int) -> Nearest:
        """Nearly always the nearest rows to each of the unit vectors [Q, dim].

        Raises ValueError where the lists name other rows than those that were added.
        """
        k = min(k, len(self))
        offered = self._offered(queries.numpy(), k)
        similarities, rows = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.long)
        for number, (query, candidates) in enumerate(zip(queries, offered, strict=True)):
            candidates = np.unique(candidates[candidates >= 0])
            if len(candidates) < k or candidates[-1] >= len(self):
                raise ValueError("its lists do not hold the rows that were added")
            best = _largest((torch.from_numpy(self._lookup(candidates)) @ query)[None], k)
            similarities[number], rows[number] = best.similarities[0], torch.from_numpy(candidates)[best.rows[0]]
        return Nearest(similarities, rows)

    def _offered(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows [Q, n] to compare with, at least k that are not -1."""
        wanted = min(max(_CANDIDATES_PER_RESULT * k, _FEWEST_CANDIDATES), len(self))
        self._index.nprobe = min(_PROBES, self._index.nlist)
        while True:
            _, rows = self._index.search(queries, wanted)
            if self._index.nprobe >= self._index.nlist or ((rows >= 0).sum(axis=1) >= k).all():
                return rows
            self._index.nprobe *= 2

    def __len__(self) -> int:
        return self._index.ntotal

    def to_bytes(self) -> bytes:
        """The index without the vectors themselves, for a file."""
        import faiss

        return faiss.serialize_index(self._index).tobytes()

    @classmethod
    def open(cls, file: Path, lookup: Callable[[np.ndarray], np.ndarray], *, grows: bool) -> Self:
        """The index that `to_bytes` gave. All of it is read if it `grows`, otherwise only what queries need.

        Raises ValueError for any other file, and before it takes more memory than the file has bytes.
        """
        import faiss

        flags = 0 if grows else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        try:
            with _no_vector_larger_than(file.stat().st_size):
                index = faiss.read_index(str(file), flags)
        except (RuntimeError, MemoryError) as error:  # faiss raises nothing else
            raise ValueError(f"faiss cannot read it: {first_line(error)}") from None
        if not isinstance(index, faiss.IndexIVFScalarQuantizer) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("it holds an index of another kind")
        return cls(index, lookup)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._index.d


@contextmanager
def _no_vector_larger_than(num_bytes: int) -> Iterator[None]:
    """Let faiss refuse a file that claims a longer vector, where this faiss (1.13 and newer) knows such a limit."""
    import faiss

    set_limit = getattr(faiss, "set_deserialization_vector_byte_limit", None)
    if set_limit is None:
        yield
        return
    before = faiss.get_deserialization_vector_byte_limit()
    set_limit(num_bytes)
    try:
        yield
    finally:
        set_limit(before)


def _num_lists(num_vectors: int) -> int:
    return 2 ** round(math.log2(num_vectors**0.5))
