"""A cache of pictures knows what is in it: damage is seen, the same bytes keep their key, old runs their split."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_ldm.data.held_out import is_held_out, misplaced
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.picture_cache import cached_pictures, load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.pictures import PictureSplits, open_pictures
from vae_ldm.data.sources import Record
from vae_ldm.data.stored_pictures import DamagedPicturesError
from vae_ldm.errors import DataError

OLD = Path(__file__).parent / "pictures_of_0_1_0"
SIZE = (8, 12)


class _Listed:
    """A source of grey pictures, each with its number's brightness, that counts how often it is read."""

    name = "a list"
    class_names = None

    def __init__(self, train: dict[str, str | None], validation: dict[str, str | None] | None = None) -> None:
        self._labels = {"train": train, "validation": validation or {}}
        self.times_read = 0

    def description(self) -> dict[str, object]:
        return {"ids": {split: list(labels) for split, labels in self._labels.items()}}

    def num_records(self, split: str) -> int:
        return len(self._labels[split])

    def records(self, split: str) -> Iterator[Record]:
        self.times_read += 1
        first = 9 if split == "validation" else 0
        for number, (name, label) in enumerate(self._labels[split].items(), start=first):
            yield Record(name, Image.new("L", (12, 8), number), label)

    def remarks(self) -> list[str]:
        return []


def _load(source: _Listed, folder: Path, **options: object) -> PictureSplits:
    return load_pictures(source, folder, PictureSettings(SIZE, **options))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    _load(_Listed({f"{number}.png": None for number in range(600)}), tmp_path / "pictures")
    return tmp_path / "pictures"


def _spoil_picture(cache: Path, number: int) -> None:
    images = np.load(cache / "train.npy", mmap_mode="r+")
    images[number] = 0
    images.flush()


@pytest.mark.parametrize(("number", "block"), [(255, "0 to 255"), (256, "256 to 511"), (-1, "512 to ")])
def test_a_zeroed_picture_is_seen_and_decoded_anew(
    cache: Path, number: int, block: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = open_pictures(cache)
    images = np.array(before.train.images)
    _spoil_picture(cache, number)
    with pytest.raises(DamagedPicturesError, match=rf"train.npy: pictures {block}.*delete this folder") as caught:
        open_pictures(cache)
    assert "\n" not in str(caught.value)
    source = _Listed({f"{number}.png": None for number in range(600)})
    after = _load(source, cache)
    assert source.times_read == 1
    assert np.array_equal(after.train.images, images)
    assert after.key == before.key
    assert "the photos are decoded anew" in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: "{",
        lambda index: "{}",
        lambda index: "[1]",
        lambda index: "[" * 10**5,
        lambda index: json.dumps({**index, "train": {**index["train"], "labels": [0] * len(index["train"]["ids"])}}),
        lambda index: json.dumps({**index, "unreadable": ["made up"]}),
        lambda index: json.dumps({name: value for name, value in index.items() if name != "digest"}),
        lambda index: json.dumps({name: value for name, value in index.items() if name != "format"}),
    ],
)
def test_a_changed_index_is_seen(cache: Path, spoil: object) -> None:
    file = cache / "index.json"
    file.write_text(spoil(json.loads(file.read_text())))
    with pytest.raises(DamagedPicturesError, match=r"index.json is not .*; delete this folder"):
        open_pictures(cache)


def test_a_cache_of_a_newer_version_is_refused_and_kept(cache: Path) -> None:
    file = cache / "index.json"
    file.write_text(json.dumps({"format": 3}))
    for read in (open_pictures, lambda folder: _load(_Listed({"a": None, "b": None}), folder)):
        with pytest.raises(DataError, match=r"newer version of vae_ldm \(format 3, this one reads 2\); install"):
            read(cache)
    assert json.loads(file.read_text()) == {"format": 3}


def test_no_cache_is_none(tmp_path: Path) -> None:
    assert open_pictures(tmp_path) is None
    assert cached_pictures(tmp_path, PictureSettings(SIZE)) is None


def test_a_cache_serves_without_its_source_under_the_same_settings(cache: Path) -> None:
    assert len(cached_pictures(cache, PictureSettings(SIZE)).train) > 500
    assert cached_pictures(cache, PictureSettings(SIZE, resize="pad")) is None
    assert cached_pictures(OLD / "one_split", PictureSettings(SIZE)) is not None
    assert cached_pictures(OLD / "one_split", PictureSettings((8, 8))) is None
    assert cached_pictures(OLD / "one_split", PictureSettings(SIZE, channels=3)) is None


_OLD_LABELS = {f"{n}.png": "jar" if n in (1, 2) else "tin" if n < 4 else "box" for n in range(8)}


def test_a_cache_of_0_1_0_is_read_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(OLD / "one_split", tmp_path / "pictures")
    source = _Listed(_OLD_LABELS)
    splits = _load(source, tmp_path / "pictures")
    assert source.times_read == 0
    assert splits.key == json.loads((OLD / "one_split" / "index.json").read_text())["key"]
    assert splits.validation.ids == ["0.png", "6.png"]
    assert splits.train.class_names == ["box", "jar", "tin"]


def test_a_run_of_0_1_0_keeps_its_split_where_pictures_are_decoded_anew(tmp_path: Path) -> None:
    shutil.copytree(OLD / "one_split", tmp_path / "old")
    added = _Listed(_OLD_LABELS | {"100.png": "box"})
    kept = _load(added, tmp_path / "old")
    assert added.times_read == 1
    assert kept.validation.ids == ["0.png", "6.png"]
    again = _load(_Listed(_OLD_LABELS | {"100.png": "box", "101.png": "box"}), tmp_path / "old")
    assert again.validation.ids == ["0.png", "6.png"]
    new = _load(added, tmp_path / "new")
    assert {new.train.class_names[label] for label in new.validation.labels} == {"box", "jar", "tin"}


def test_ids_of_0_1_0_that_stood_for_rows_of_two_splits_differ_now(tmp_path: Path) -> None:
    shutil.copytree(OLD / "two_splits", tmp_path / "pictures")
    source = _Listed({"0": None, "1": None, "2": None}, {"0": None, "1": None})
    splits = _load(source, tmp_path / "pictures")
    assert source.times_read == 0
    assert splits.train.ids == ["train/0", "train/1", "train/2"]
    assert splits.validation.ids == ["validation/0", "validation/1"]
    assert splits.validation.images[:, 0, 0, 0].tolist() == [9, 10]


def test_the_same_bytes_are_the_same_pictures_whenever_they_were_written(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")

    def load() -> str:
        return load_pictures(ImageFolderSource(tmp_path), tmp_path / "run" / "pictures", PictureSettings((16, 16))).key

    before = load()
    os.utime(tmp_path / "0.png", (1, 1))
    assert load() == before
    Image.new("RGB", (16, 16), (9, 0, 0)).save(tmp_path / "0.png")
    assert load() != before


@pytest.mark.parametrize("num_photos", [2, 3, 10])
def test_every_class_of_two_photos_can_be_learned_and_judged(tmp_path: Path, num_photos: int) -> None:
    labels = {f"{name}/{number}.png": name for name in "abcdefgh" for number in range(num_photos)}
    splits = _load(_Listed(labels), tmp_path / "pictures")
    assert splits.trained_classes == list(range(8))
    assert set(splits.validation.labels.tolist()) == set(range(8))
    values = dict(zip(labels, range(256), strict=False))
    for pictures in (splits.train, splits.validation):
        assert [values[name] for name in pictures.ids] == pictures.images[:, 0, 0, 0].tolist()
        assert [pictures.class_names[label] for label in pictures.labels] == [labels[name] for name in pictures.ids]
        assert pictures.ids == [name for name in labels if name in set(pictures.ids)]  # in the source's order


def test_a_class_on_both_sides_stays_where_its_hash_has_put_it() -> None:
    names = [f"{name}/{number}.png" for name in "ab" for number in range(60)]
    sides = ([], [])
    for name in names:
        sides[is_held_out(name, 0.1)].append((name, name[0]))
    assert misplaced(*sides) == (set(), set())
    train, validation = sides
    alone = [("c/0.png", "c"), ("c/1.png", "c")]
    to_validation, to_train = misplaced([*train, *alone], validation)
    assert to_train == set()
    assert len(to_validation) == 1
    assert min(to_validation) >= len(train)
    assert misplaced(train, [*validation, ("d/0.png", "d")]) == (set(), {len(validation)})


def test_a_class_of_validation_alone_is_not_among_the_trained_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = _load(_Listed({"0": "disc", "1": "square"}, {"2": "disc", "3": "tube"}), tmp_path / "pictures")
    assert splits.train.class_names == ["disc", "square", "tube"]
    assert splits.trained_classes == [0, 1]
    assert "no training picture is of class tube, which a model therefore does not learn" in caplog.text


def test_classes_that_share_a_prompt_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _load(_Listed({"0": "red_hat", "1": "red hat", "2": "cap"}), tmp_path / "pictures")
    assert "the classes red hat, red_hat have the same prompt, 'a photo of red hat'" in caplog.text
