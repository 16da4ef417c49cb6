"""Several sources as one: their pictures, their share of each batch, and what is cached of each."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vae_ldm.data.datamodule import ImageDataModule, PictureBatches
from vae_ldm.data.mixture import folders_of_mixture, joined, keep_mixture, open_mixture
from vae_ldm.data.pictures import Pictures, PictureSplits
from vae_ldm.data.random_views import random_crops
from vae_ldm.data.sampling import Batch, FixedBatches, MixedBatches, Shares
from vae_ldm.errors import DataError
from vae_ldm.models.joined_pictures import (
    JoinedPictures,
    each_size,
    image_sizes,
    num_channels,
    of_one_size,
    one_after_the_other,
)

SIZES = ((12, 16), (8, 8), (12, 16))
COUNTS = (7, 3, 5)


def _images(count: int, size: tuple[int, int], channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, channels), dtype=np.uint8)


def _arrays() -> list[np.ndarray]:
    """Three sources of two sizes, the last one grey."""
    return [_images(n, size, 1 if k == 2 else 3, k) for k, (n, size) in enumerate(zip(COUNTS, SIZES, strict=True))]


def _splits(images: np.ndarray, classes: list[str], seed: int = 0) -> PictureSplits:
    labels = np.random.default_rng(seed).integers(-1, len(classes), len(images))
    names = [str(row) for row in range(len(images))]
    pictures = Pictures(images, labels, [f"caption {name}" for name in names], names, classes)
    return PictureSplits(pictures, pictures, ["x.png: empty"], f"key {seed}")


def test_joined_pictures_are_joined_further_without_a_copy() -> None:
    arrays = _arrays()
    some = JoinedPictures(arrays)[[9, 2, 12]]
    whole = one_after_the_other([arrays[0], some, JoinedPictures(arrays[1:2])])
    expected = [*arrays[0], arrays[1][2], arrays[0][2], arrays[2][2].repeat(3, axis=-1), *arrays[1]]
    assert len(whole) == len(expected) == 13
    assert all(np.array_equal(found, picture) for found, picture in zip(whole, expected, strict=True))
    assert all(any(mine is array for array in arrays) for mine in whole.arrays)


def test_rows_of_one_size_are_an_array_and_of_several_are_taken_apart() -> None:
    arrays = _arrays()
    pictures = JoinedPictures(arrays)
    assert (len(pictures), num_channels(pictures), image_sizes(pictures)) == (15, 3, [(12, 16), (8, 8)])
    assert np.array_equal(pictures[np.array([6, 0])], arrays[0][[6, 0]])
    assert np.array_equal(pictures[[0, 10]], np.stack([arrays[0][0], arrays[2][0].repeat(3, axis=-1)]))
    assert np.array_equal(pictures[8], arrays[1][1])
    assert np.array_equal(pictures[7:10, :, ::-1], arrays[1][:, :, ::-1])
    mixed = pictures[5:9]
    assert isinstance(mixed, JoinedPictures)
    assert [picture.shape for picture in mixed] == [(12, 16, 3), (12, 16, 3), (8, 8, 3), (8, 8, 3)]
    assert [(rows.tolist(), some.shape) for rows, some in of_one_size(mixed)] == [
        ([0, 1], (2, 12, 16, 3)),
        ([2, 3], (2, 8, 8, 3)),
    ]
    negatives = each_size(lambda some: 255 - some[:], pictures)
    assert isinstance(negatives, JoinedPictures)
    assert all(np.array_equal(255 - one, other) for one, other in zip(pictures, negatives, strict=True))


def test_pictures_of_one_size_behave_as_an_array() -> None:
    arrays = [_images(4, (6, 5), 3), _images(3, (6, 5), 1, 1)]
    pictures = JoinedPictures(arrays)
    whole = np.concatenate([arrays[0], arrays[1].repeat(3, axis=-1)])
    assert pictures.shape == whole.shape
    assert np.array_equal(np.asarray(pictures), whole)
    assert np.array_equal(pictures[2:6], whole[2:6])
    assert np.array_equal(pictures[whole[:, 0, 0, 0] > 99], whole[whole[:, 0, 0, 0] > 99])
    ((rows, same),) = of_one_size(pictures)
    assert rows.tolist() == list(range(7))
    assert same is pictures


def test_classes_of_one_name_are_one_class_and_ids_name_their_source() -> None:
    arrays = _arrays()
    sources = [
        _splits(images, classes, k)
        for k, (images, classes) in enumerate(zip(arrays, (["a", "b"], [], ["b", "c"]), strict=True))
    ]
    whole = joined(sources)
    train = whole.train
    assert train.class_names == ["a", "b", "c"]
    named = [None if label < 0 else train.class_names[label] for label in train.labels]
    expected = [
        None if label < 0 else source.train.class_names[label] for source in sources for label in source.train.labels
    ]
    assert named == expected
    assert train.ids[7] == "sources[1]/0"
    assert len(set(train.ids)) == 15
    assert (train.source_counts, whole.unreadable[2]) == (COUNTS, "sources[2]/x.png: empty")
    assert whole.key != joined(sources[::-1]).key


def test_a_mixture_is_sent_to_a_worker_by_the_names_of_its_files(tmp_path: Path) -> None:
    mapped = []
    for number, array in enumerate([_images(200, (12, 16)), _images(100, (8, 8))]):
        np.save(tmp_path / f"{number}.npy", array)
        mapped.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    labels = np.zeros(300, np.int64)
    pictures = Pictures(JoinedPictures(mapped), labels, [""] * 300, ["x"] * 300, ["x"], (200, 100))
    sent = pickle.dumps(pictures)
    assert len(sent) < mapped[0].nbytes / 5
    back = pickle.loads(sent)
    assert back.source_counts == (200, 100)
    assert np.array_equal(back.images[250], mapped[1][50])


# --- the share of each source -----------------------------------------------------------------------------------------


def _take(shares: Shares, batch_size: int, count: int, **options: int) -> list[Batch]:
    return list(itertools.islice(MixedBatches(shares, batch_size, seed=3, **options), count))


def test_shares_are_those_of_the_weights_whatever_the_sizes() -> None:
    shares = Shares((1000, 10, 33), (3.0, 1.0, 1.0))
    batches = _take(shares, 16, 2000)
    of_batch = np.array([np.histogram(batch.indices, [0, 1000, 1010, 1043])[0] for batch in batches])
    assert np.abs(of_batch - 16 * np.array([0.6, 0.2, 0.2])).max() <= 1 + 1e-9
    assert np.abs(of_batch.mean(axis=0) - 16 * np.array([0.6, 0.2, 0.2])).max() < 0.05
    assert all(batch.indices.shape == (16,) and batch.indices.dtype == np.int64 for batch in batches)


def test_three_to_one_over_an_epoch_is_exact_where_a_batch_can_hold_it() -> None:
    drawn = np.concatenate([batch.indices for batch in _take(Shares((60, 20), (3.0, 1.0)), 8, 10)])
    assert sorted(drawn) == list(range(80))  # 3:1 of 80 draws is one epoch of either source
    again = np.concatenate([batch.indices for batch in _take(Shares((60, 60), (3.0, 1.0)), 8, 10)])
    assert ((again < 60).sum(), (again >= 60).sum()) == (60, 20)


def test_within_a_source_every_picture_comes_once_before_any_comes_twice() -> None:
    shares = Shares((7, 3, 40), (1.0, 2.0, 0.5))
    drawn = np.concatenate([batch.indices for batch in _take(shares, 5, 3000)])
    first = 0
    for count in shares.counts:
        own = drawn[(drawn >= first) & (drawn < first + count)] - first
        epochs = own[: len(own) // count * count].reshape(-1, count)
        assert (np.sort(epochs, axis=1) == np.arange(count)).all()
        assert len({tuple(epoch) for epoch in epochs}) > 1
        first += count


@pytest.mark.parametrize("start", [1, 1023, 1024, 2500])  # within a block, at its ends, and in a later one
def test_a_resumed_run_meets_the_batches_it_would_have_met(start: int) -> None:
    shares = Shares((30, 4, 9), (1.0, 1.0, 5.0))
    whole = _take(shares, 4, start + 6)[start:]
    for ours, theirs in zip(_take(shares, 4, 6, start_batch=start), whole, strict=True):
        assert ours.number == theirs.number
        assert np.array_equal(ours.indices, theirs.indices)


def test_replicas_share_out_the_order_of_one() -> None:
    shares = Shares((30, 4), (1.0, 3.0))
    alone = _take(shares, 4, 8)
    halves = [_take(shares, 4, 4, rank=rank, num_replicas=2) for rank in (0, 1)]
    together = [batch for step in zip(*halves, strict=True) for batch in step]
    assert all(np.array_equal(one.indices, other.indices) for one, other in zip(together, alone, strict=True))


def test_a_source_of_tiny_weight_is_drawn_now_and_then() -> None:
    drawn = np.concatenate([batch.indices for batch in _take(Shares((5, 5), (999.0, 1.0)), 4, 5000)])
    assert 10 < (drawn >= 5).sum() < 30


# --- what is seen of them ---------------------------------------------------------------------------------------------


def _mixed() -> Pictures:
    arrays = _arrays()
    count = sum(COUNTS)
    return Pictures(JoinedPictures(arrays), np.zeros(count, np.int64), [""] * count, [""] * count, ["x"], COUNTS)


def test_a_batch_mixes_crops_of_sources_of_different_sizes() -> None:
    pictures = _mixed()
    module = ImageDataModule(pictures, pictures, batch_size=6, crop_size=(8, 8), shares=Shares(COUNTS, (1.0, 1.0, 1.0)))
    for batch in itertools.islice(module.train_dataloader(), 5):
        assert batch["images"].shape == (6, 3, 8, 8)
        sources = np.searchsorted(np.cumsum(COUNTS), batch["index"].numpy(), side="right")
        assert np.bincount(sources).tolist() == [2, 2, 2]
        for image, row, source in zip(batch["images"].numpy(), batch["index"].tolist(), sources, strict=True):
            whole = pictures.images[row]
            places = [
                np.array_equal(whole[top : top + 8, left : left + 8].transpose(2, 0, 1), image)
                for top in range(whole.shape[0] - 7)
                for left in range(whole.shape[1] - 7)
            ]
            assert any(places), f"no crop of source {source}"


def test_validation_has_all_pictures_once_in_order_in_batches_of_one_size() -> None:
    module = ImageDataModule(_mixed(), _mixed(), batch_size=4, num_val_images=None)
    batches = list(module.val_dataloader())
    assert [tuple(batch["images"].shape) for batch in batches] == [
        (4, 3, 12, 16),
        (3, 3, 12, 16),
        (3, 3, 8, 8),
        (4, 3, 12, 16),
        (1, 3, 12, 16),
    ]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(15))
    halves = [FixedBatches(np.arange(15), 4, kinds=np.arange(15) // 5, rank=r, num_replicas=2) for r in (0, 1)]
    assert sorted(int(row) for half in halves for batch in half for row in batch.indices) == list(range(15))


def test_each_source_may_be_seen_in_its_own_way() -> None:
    pictures = _mixed()
    only_first = np.repeat([True, False, False], COUNTS)
    batches = PictureBatches(
        pictures, horizontal_flip=only_first, color_jitter=0.4 * only_first.astype(float), crop_size=(8, 8)
    )
    plain = PictureBatches(pictures, crop_size=(8, 8))
    rows = np.array([0, 1, 7, 8, 12, 14] * 8)
    seen, as_they_are = batches[Batch(0, rows)]["images"], plain[Batch(0, rows)]["images"]
    others = torch.from_numpy(rows >= 7)
    assert torch.equal(seen[others], as_they_are[others])
    assert not torch.equal(seen[~others], as_they_are[~others])


# --- crops of a random scale ------------------------------------------------------------------------------------------


def test_resized_crops_reach_from_the_crop_to_the_whole_picture() -> None:
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    images = np.broadcast_to(ramp[None, None, :, None], (1, 48, 64, 1)).copy()
    crops = random_crops(images, np.zeros(600, np.int64), (16, 16), np.random.default_rng(0), resized=True)
    widths = (crops[:, 8, 15, 0].astype(int) - crops[:, 8, 0, 0]) / (ramp[1] - ramp[0]) / 15 * 16
    assert widths.min() < 18
    assert widths.max() > 45
    areas = np.sort((widths / 48).clip(1 / 3, 1) ** 2)
    assert np.abs(np.quantile(areas, [0.25, 0.5, 0.75]) - (1 / 9 + 8 / 9 * np.array([0.25, 0.5, 0.75]))).max() < 0.06


def test_resized_crops_average_what_they_reduce() -> None:
    checks = (255 * (np.indices((64, 64)).sum(axis=0) % 2)).astype(np.uint8)[None, :, :, None].repeat(3, axis=3)
    crops = random_crops(checks, np.zeros(200, np.int64), (8, 8), np.random.default_rng(0), resized=True)
    reduced = crops[[not {0, 255}.issuperset(np.unique(crop)) for crop in crops]]
    assert len(reduced) > 150
    assert np.median(np.abs(reduced.astype(int) - 127).max(axis=(1, 2, 3))) < 60


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resized_crops_are_the_same_again(channels: int) -> None:
    images = _images(5, (24, 20), channels)
    one, other, third = (
        random_crops(images, np.arange(5), (8, 12), np.random.default_rng(seed), resized=True) for seed in (1, 1, 2)
    )
    assert one.shape == (5, 8, 12, channels)
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_a_picture_as_large_as_the_crop_is_taken_as_it_is() -> None:
    images = _images(3, (8, 8))
    rng = np.random.default_rng(0)
    assert np.array_equal(random_crops(images, np.arange(3), (8, 8), rng, resized=True), images)


def test_only_the_sources_that_ask_for_it_are_seen_at_a_random_scale() -> None:
    pictures = _mixed()
    rows = np.array([0, 1, 7, 8, 12])
    flags = np.repeat([False, True, True], COUNTS)
    crops = random_crops(pictures.images, rows, (6, 6), np.random.default_rng(0), resized=flags[rows])
    whole = pictures.images[0]
    assert any(
        np.array_equal(whole[top : top + 6, left : left + 6], crops[0]) for top in range(7) for left in range(11)
    )


# --- the index beside the caches --------------------------------------------------------------------------------------


def test_what_no_source_has_any_more_is_deleted(tmp_path: Path) -> None:
    folders = [tmp_path / f"source-{name}" / "pictures" for name in "abc"]
    for folder in folders:
        folder.mkdir(parents=True)
    (tmp_path / "train.npy").touch()  # of a recipe of one source
    keep_mixture(tmp_path, [(folder, {"path": folder.parent.name}) for folder in folders])
    assert not (tmp_path / "train.npy").exists()
    keep_mixture(tmp_path, [(folders[2], {"path": "c"}), (folders[0], {"path": "a"})])
    assert folders_of_mixture(tmp_path) == [(folders[2], {"path": "c"}), (folders[0], {"path": "a"})]
    assert not folders[1].exists()
    with pytest.raises(DataError, match="pictures of a source are missing"):
        open_mixture(tmp_path)
    (tmp_path / "mixture.json").write_text("{}")
    with pytest.raises(DataError, match=r"mixture.json: is damaged .*delete this file"):
        open_mixture(tmp_path)
    keep_mixture(tmp_path, [(folders[0], {"path": "a"})])
    assert folders_of_mixture(tmp_path) == [(folders[0], {"path": "a"})]
