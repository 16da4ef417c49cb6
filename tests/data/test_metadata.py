"""Metadata files as people's programs write them: read, or refused in one line with the file and the row."""

import json
from pathlib import Path

import pytest
from PIL import Image

from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.picture_cache import load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


_ROW = '{"file_name": "0.png", "text": "a tin"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata.jsonl",
            (_ROW + '{"file_name": "1.png", "text": "caf\xe9"}\n').encode("latin-1"),
            "line 2: not UTF-8",
        ),
        ("metadata.csv", "file_name,text\n0.png,tin\n1.png,ein Käse\n".encode("cp1252"), "line 3: not UTF-8; .* Excel"),
        ("metadata.jsonl", _ROW.encode("utf-16"), "line 1: not UTF-8"),
        ("metadata.csv", b"file_name,text\n0.png,a red, shiny tin\n", "line 2: more fields than columns; .* quotes"),
        ("metadata.csv", b"image,text\n0.png,red, shiny\n", "line 2: more fields than columns"),
        ("metadata.csv", b"image,text\n0.png,red\n", "line 2: every row needs a file_name; this one has image, text"),
        ("metadata.csv", b"file_name;text\n0.png;red\n", "this one has file_name;text; separate columns by commas"),
        ("metadata.csv", b'file_name,text\n0.png,"' + b"x" * 200_000 + b'"\n', "line 2: not CSV .*field larger"),
        ("metadata.parquet", b"PAR1 nonsense", "metadata.parquet: cannot be read as parquet"),
        (
            "metadata.jsonl",
            b'{"file_name": "0.png", "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
            "1: nested too deeply",
        ),
        (
            "metadata.jsonl",
            b'{"file_name": "0.png", "x": ' + b"9" * 5000 + b"}",
            "line 1: holds a number with too many digits; write it as text, in quotes",
        ),
        ("metadata.jsonl", b'{"file_name": "\\ud800.png", "label": "y"}', r"line 1: no file can be named \\ud800.png"),
        ("metadata.jsonl", b"[1]", "line 1: a row must be an object"),
        ("metadata.jsonl", b'{"file_name": 5}', "line 1: file_name is 5, not text"),
        ("metadata.jsonl", b"{}", "line 1: every row needs a file_name; this one has nothing"),
        ("metadata.csv", b"", r"metadata\.csv: names no pictures; list them, a row each with file_name, or delete"),
        ("metadata.csv", b"file_name,text\n", r"metadata\.csv: names no pictures"),
        ("metadata.jsonl", b"\n", r"metadata\.jsonl: names no pictures"),
        (
            "metadata.csv",
            b"file_name,label,text\n0.png,a,x\n1.png,a,x\n./0.png,b,x\n",
            "line 4: gives 0.png another label than .*metadata.csv, line 2; leave one of them out",
        ),
        (
            "metadata.jsonl",
            (_ROW + '{"file_name": "0.png", "text": "a can"}').encode(),
            "line 2: gives 0.png another caption than .*metadata.jsonl, line 1; leave",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(photos: Path, name: str, content: bytes, message: str) -> None:
    (photos / name).write_bytes(content)
    for read in (ImageFolderSource, photo_records):
        with pytest.raises(DataError, match=message) as caught:
            read(photos)
        assert str(caught.value).isprintable()
        assert str(photos / name) in str(caught.value)


def test_parquet_rows_are_numbered(photos: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"file_name": ["0.png", None]}), photos / "metadata.parquet")
    with pytest.raises(DataError, match=r"metadata\.parquet, row 2: every row needs a file_name"):
        ImageFolderSource(photos)


def test_a_picture_that_is_listed_twice_counts_once(photos: Path) -> None:
    listed = "file_name,label\n" + "".join(f"{number}.png,7\n" for number in (0, 1, 2, 3, 0))
    (photos / "metadata.csv").write_text(listed)
    (photos / "metadata.jsonl").write_text('{"file_name": "1.png", "label": 7}')
    source = ImageFolderSource(photos)
    assert sorted(record.id for record in source.records("train")) == ["0.png", "1.png", "2.png", "3.png"]
    assert len(photo_records(photos)) == 4


_FAULTS = {
    '"caption": 12': r"1.png: its caption is 12, not text (row metadata.jsonl, 2)",
    '"caption": ["a", "b"]': r"1.png: its caption is ['a', 'b'], not text (row metadata.jsonl, 2)",
    '"caption": "a\\ud800b"': r"1.png: its caption holds half a character (row metadata.jsonl, 2)",
    '"label": {"x": 1}': r"1.png: its label is {'x': 1}, not text or a number (row metadata.jsonl, 2)",
    '"label": "x\\ud800"': r"1.png: its label holds half a character (row metadata.jsonl, 2)",
}


@pytest.mark.parametrize(("field", "line"), _FAULTS.items())
def test_one_bad_caption_or_label_is_that_photos_line(photos: Path, field: str, line: str) -> None:
    rows = [f'{{"file_name": "{number}.png", "caption": "fine"}}' for number in range(4)]
    rows[1] = f'{{"file_name": "1.png", {field}}}'
    (photos / "metadata.jsonl").write_text("\n".join(rows))
    settings = PictureSettings((16, 16), max_unreadable_share=0.5)
    splits = load_pictures(ImageFolderSource(photos), photos / "run" / "pictures", settings)
    assert splits.unreadable == [line]
    assert sorted(splits.train.ids + splits.validation.ids) == ["0.png", "2.png", "3.png"]


def test_captions_that_are_numbers_end_before_anything_is_trained(photos: Path) -> None:
    rows = [json.dumps({"file_name": f"{number}.png", "text": number}) for number in range(1, 4)]
    (photos / "metadata.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"0 of 3 pictures .* can be used \(1.png: its caption is 1, not text"):
        load_pictures(ImageFolderSource(photos), photos / "run" / "pictures", PictureSettings((16, 16)))


def test_columns_that_nothing_uses_may_hold_anything(photos: Path) -> None:
    row = {"file_name": "0.png", "label": 3, "text": [1, 2], "others": {"x": None}}
    (photos / "metadata.jsonl").write_text(json.dumps(row))
    (record,) = ImageFolderSource(photos).records("train")
    assert (record.label, record.caption) == ("3", None)
    assert isinstance(record.picture, Path)


def test_a_label_of_too_many_digits_for_python_is_a_class(photos: Path) -> None:
    rows = [json.dumps({"file_name": f"{number}.png", "label": "9" * 5000}) for number in range(4)]
    (photos / "metadata.jsonl").write_text("\n".join(rows))
    assert ImageFolderSource(photos).class_names == ["9" * 5000]


def test_photos_that_no_metadata_file_names_are_told(tmp_path: Path) -> None:
    for name in ("train/a/0.png", "train/a/1.png", "validation/a/2.png", "test/a/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "a/0.png", "label": "a"}))
    source = ImageFolderSource(tmp_path)
    assert source.remarks() == [
        "left out train/a/1.png and 1 more: no metadata file names it",
        "left out test/a/3.png: not in train/ or validation/",
    ]
