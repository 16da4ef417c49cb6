"""Local parquet and webdataset shards as a source; nothing here reaches the network."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_ldm.data.hub_dataset import HubDatasetSource
from vae_ldm.data.picture_cache import load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.errors import DataError

datasets = pytest.importorskip("datasets")


def _png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (16, 16), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Splits train (6 rows, one of them broken) and test (2 rows)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["tin", "box"]),
            "number": datasets.Value("int64"),
            "words": datasets.Value("string"),
        }
    )
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, count in {"train": 6, "test": 2}.items():
        rows = {
            "image": [{"bytes": b"text" if n == 3 else _png(n), "path": None} for n in range(count)],
            "label": [n % 2 for n in range(count)],
            "number": [10 - n for n in range(count)],
            "words": ["" if n == 1 else f"words {n}" for n in range(count)],
        }
        pq.write_table(pa.table(rows, schema=features.arrow_schema), folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_parquet(parquet: Path, tmp_path: Path) -> None:
    source = HubDatasetSource(str(parquet), validation_split="test", label_column="label", caption_column="words")
    settings = PictureSettings((16, 16), max_unreadable_share=0.2)
    splits = load_pictures(source, tmp_path / "pictures", settings)
    assert splits.train.ids == ["train/0", "train/1", "train/2", "train/4", "train/5"]
    assert splits.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 4, 5]
    assert splits.train.labels.tolist() == [0, 1, 0, 0, 1]
    assert splits.train.class_names == ["tin", "box"]
    assert splits.train.captions[:2] == ["words 0", "a photo of box"]
    assert splits.validation.ids == ["validation/0", "validation/1"]
    assert splits.unreadable == ["train/3: not a picture, or of a format that is not supported"]


def _named_files(folder: Path, *paths: Path) -> HubDatasetSource:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = datasets.Features({"image": datasets.Image()})
    rows = {"image": [{"bytes": None, "path": str(path)} for path in paths]}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows, schema=features.arrow_schema), folder / "train-00000-of-00001.parquet")
    return HubDatasetSource(str(folder))


def test_a_row_that_names_a_file_outside_the_data_set_is_not_read(tmp_path: Path) -> None:
    private, own = tmp_path / "private.png", tmp_path / "shards" / "1.png"
    own.parent.mkdir()
    for file in (private, own):
        file.write_bytes(_png(9))
    through = tmp_path / "shards" / ".." / "private.png"
    source = _named_files(tmp_path / "shards", private, own, own, through)
    splits = load_pictures(source, tmp_path / "pictures", PictureSettings((16, 16), max_unreadable_share=0.5))
    reason = "its row names a file outside the data set; only pictures inside the data set are read"
    assert splits.unreadable == [f"train/0: {reason}", f"train/3: {reason}"]
    assert sorted(splits.train.ids + splits.validation.ids) == ["train/1", "train/2"]


def test_nothing_is_loaded_when_the_cache_is_there(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PictureSettings((16, 16), max_unreadable_share=0.2)
    first = load_pictures(HubDatasetSource(str(parquet)), tmp_path / "pictures", settings)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("loaded again"))
    assert load_pictures(HubDatasetSource(str(parquet)), tmp_path / "pictures", settings).key == first.key


def test_numbers_as_labels_and_a_limit(parquet: Path) -> None:
    source = HubDatasetSource(str(parquet), label_column="number", max_images=2)
    assert source.class_names is None
    assert [record.label for record in source.records("train")] == ["10", "9"]
    assert source.num_records("train") == 2
    assert source.num_records("validation") == 0
    assert list(source.records("validation")) == []


def test_without_labels_there_are_no_classes(parquet: Path) -> None:
    source = HubDatasetSource(str(parquet))
    assert source.class_names == []
    assert {record.label for record in source.records("train")} == {None}


def test_webdataset_with_a_nested_column(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "shard-0.tar", "w") as tar:
        for n in range(4):
            for suffix, data in {"png": _png(n), "json": json.dumps({"kind": f"k{n % 2}"}).encode()}.items():
                member = tarfile.TarInfo(f"picture{n}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = HubDatasetSource(str(tmp_path / "shards"), image_column="png", label_column="json.kind")
    splits = load_pictures(source, tmp_path / "pictures", PictureSettings((16, 16)))
    found = dict(zip(splits.train.ids, splits.train.labels.tolist(), strict=True))
    found.update(zip(splits.validation.ids, splits.validation.labels.tolist(), strict=True))
    assert found == {f"train/picture{n}": n % 2 for n in range(4)}
    assert splits.train.class_names == ["k0", "k1"]


def test_loaded_whole_instead_of_streamed(parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_parquet(str(parquet / "test-00000-of-00001.parquet"), cache_dir=str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, streaming, **__: rows if not streaming else None)
    source = HubDatasetSource("someone/something", label_column="label", max_images=9)
    assert source.num_records("train") == 2
    assert [record.label for record in source.records("train")] == ["tin", "box"]
    assert np.asarray(Image.open(io.BytesIO(next(source.records("train")).picture))).shape == (16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "img"}, "no column img; it has image, label, number, words"),
        ({"label_column": "lable"}, "no column lable; it has image, label, number, words"),
        ({"caption_column": "number"}, "caption_column number holds int, not text"),
        ({"train_split": "training"}, r"cannot be loaded: Bad split: training"),
    ],
)
def test_a_wrong_setting_says_what_there_is(parquet: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(HubDatasetSource(str(parquet), **options).records("train"))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_not_looked_for_on_the_hub(parquet: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean .*shards\?"):
        HubDatasetSource(f"{parquet}x")
