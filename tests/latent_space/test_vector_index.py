"""Nearest neighbours: as a plain loop finds them, ties in order, and nearly all of them by faiss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vae_ldm.latent_space import vector_index
from vae_ldm.latent_space.vector_index import ExactIndex, FaissIndex


def unit(count, dim, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def exact(vectors):
    index = ExactIndex(vectors.shape[1])
    index.add(vectors)
    return index


@pytest.mark.parametrize("rows_at_once", [7, 50, 1000])
def test_the_exact_index_finds_what_a_full_sort_finds(monkeypatch, rows_at_once):
    monkeypatch.setattr(vector_index, "_ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(vector_index, "_QUERIES_AT_ONCE", 3)
    vectors, queries = unit(50, 8), unit(11, 8, seed=1)
    index = ExactIndex(8)
    for part in vectors.split(20):
        index.add(part)
    assert len(index) == 50
    found = index.search(queries, 5)
    expected, rows = (queries @ vectors.T).sort(dim=1, descending=True)
    assert torch.equal(found.rows, rows[:, :5])
    torch.testing.assert_close(found.similarities, expected[:, :5])


def test_of_equal_vectors_the_first_comes_first_and_no_more_are_found_than_there_are(monkeypatch):
    monkeypatch.setattr(vector_index, "_ROWS_AT_ONCE", 4)
    one = torch.tensor([[0.6, 0.8]])
    index = exact(torch.cat([one, torch.tensor([[1.0, 0.0]]), one.repeat(8, 1)]))
    assert index.search(one, 4).rows.tolist() == [[0, 2, 3, 4]]
    assert index.search(one, 99).rows.tolist() == [[0, 2, 3, 4, 5, 6, 7, 8, 9, 1]]


@pytest.fixture
def clusters():
    """3,000 vectors about 40 centres, and 50 queries of the same kind."""
    centres = unit(40, 16)
    generator = torch.Generator().manual_seed(5)
    which = torch.randint(40, (3050,), generator=generator)
    vectors = F.normalize(centres[which] + 0.3 * torch.randn(3050, 16, generator=generator) / 4, dim=1)
    return vectors[:3000], vectors[3000:]


@pytest.fixture
def faiss_index(clusters):
    pytest.importorskip("faiss")
    vectors = clusters[0].numpy()
    index = FaissIndex.train(vectors, num_vectors=3000, lookup=lambda rows: vectors[rows])
    for part in clusters[0].split(1000):
        index.add(part)
    return index


def test_faiss_finds_nearly_all_with_their_exact_similarities(clusters, faiss_index, tmp_path):
    vectors, queries = clusters
    expected, found = exact(vectors).search(queries, 10), faiss_index.search(queries, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(expected.rows.tolist(), found.rows.tolist(), strict=True)]
    assert sum(shared) >= 0.97 * 500
    torch.testing.assert_close(found.similarities, (vectors[found.rows] * queries[:, None]).sum(-1))
    assert (found.similarities.diff(dim=1) <= 0).all()

    file = tmp_path / "index"
    file.write_bytes(faiss_index.to_bytes())
    for grows in (False, True):
        again = FaissIndex.open(file, lambda rows: vectors.numpy()[rows], grows=grows)
        assert torch.equal(again.search(queries, 10).rows, found.rows)
    again.add(unit(5, 16))
    assert len(again) == 3005


def test_faiss_reads_more_lists_where_the_first_hold_too_few(faiss_index, clusters, monkeypatch):
    monkeypatch.setattr(vector_index, "_FEWEST_PROBES", 1)
    monkeypatch.setattr(vector_index, "_VECTORS_READ", 1)
    found = faiss_index.search(clusters[1][:4], 2500)
    assert found.rows.shape == (4, 2500)
    assert all(len(set(rows)) == 2500 for rows in found.rows.tolist())


def test_training_sees_no_more_vectors_than_it_needs():
    assert FaissIndex.training_size(100) == 100
    assert FaissIndex.training_size(10**6) == 64 * 1024
    assert np.log2(FaissIndex.training_size(10**6) / 64) == 10


@pytest.mark.parametrize(
    ("num_vectors", "num_lists", "num_read"),
    [
        (100_001, 256, 160),
        (200_000, 512, 160),
        (400_000, 512, 80),
        (10**6, 1024, 64),
        (10**7, 4096, 64),
        (3000, 64, 64),
    ],
)
def test_lists_that_are_read_hold_as_many_vectors_however_many_there_are(num_vectors, num_lists, num_read):
    class Sized:
        nlist, ntotal = num_lists, num_vectors

    assert FaissIndex(Sized(), lambda rows: rows).description == f"IVF{num_lists},SQ8, {num_read} lists read"
