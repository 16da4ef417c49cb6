"""The order of training is a pure function of the seed, whoever asks and wherever they begin."""

import itertools

import numpy as np
import pytest

from vae_ldm.data.sampling import Batch, EndlessBatches, batch_generator


def _take(batches: EndlessBatches, count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def _indices(batches: list[Batch]) -> list[int]:
    return np.concatenate([batch.indices for batch in batches]).tolist()


@pytest.mark.parametrize(("num_samples", "batch_size"), [(12, 4), (10, 4), (3, 8), (1, 5)])
def test_every_item_comes_once_an_epoch(num_samples: int, batch_size: int) -> None:
    num_epochs = batch_size  # then whole batches end with the last epoch
    order = _indices(_take(EndlessBatches(num_samples, batch_size, seed=1), num_samples))
    epochs = np.array(order).reshape(num_epochs, num_samples)
    assert (np.sort(epochs, axis=1) == np.arange(num_samples)).all()
    if num_samples > 3:
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_is_numbered_and_full() -> None:
    batches = _take(EndlessBatches(10, 4, seed=0), 7)
    assert [batch.number for batch in batches] == list(range(7))
    assert all(batch.indices.shape == (4,) and batch.indices.dtype == np.int64 for batch in batches)


def test_beginning_later_gives_the_same_batches() -> None:
    whole = _take(EndlessBatches(10, 4, seed=5), 20)
    later = _take(EndlessBatches(10, 4, seed=5, start_batch=7), 13)
    assert _indices(later) == _indices(whole[7:])
    assert [batch.number for batch in later] == list(range(7, 20))


def test_seeds_differ() -> None:
    assert _indices(_take(EndlessBatches(50, 50, seed=0), 1)) != _indices(_take(EndlessBatches(50, 50, seed=1), 1))


@pytest.mark.parametrize("num_replicas", [2, 3])
def test_replicas_share_out_the_order_of_one(num_replicas: int) -> None:
    alone = _take(EndlessBatches(10, 4, seed=5), 6 * num_replicas)
    shares = [
        _take(EndlessBatches(10, 4, seed=5, rank=rank, num_replicas=num_replicas, start_batch=3), 4)
        for rank in range(num_replicas)
    ]
    together = [batch for step in zip(*shares, strict=True) for batch in step]
    assert [batch.number for batch in together] == [batch.number for batch in alone[3 : 3 + 4 * num_replicas]]
    assert _indices(together) == _indices(alone[3 : 3 + 4 * num_replicas])


def test_a_batch_has_randomness_of_its_own() -> None:
    draws = [batch_generator(seed, number).random() for seed, number in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert draws[0] == draws[3]
    assert len(set(draws)) == 3
