"""Photos as a user names them: ids, classes, captions, and decoding in bounded memory."""

import json

import numpy as np
import pytest
from PIL import Image

from vae_ldm.data.decoding import UnreadablePictureError
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.photo_stream import decode_within, decoded_batches, whole_batches
from vae_ldm.errors import DataError


def save(path, color=(200, 30, 30), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("1.jpg", None),
        ("dress/1.jpg", "dress"),
        ("train/1.jpg", None),
        ("train/dress/1.jpg", "dress"),
        ("Validation/hat/1.jpg", "hat"),
        ("2025/05/hat/1.jpg", "hat"),
    ],
)
def test_the_class_is_the_pictures_own_folder(tmp_path, name, label):
    save(tmp_path / name)
    (record,) = photo_records(tmp_path)
    assert (record.id, record.label, record.caption) == (name, label, None)


def test_every_split_is_taken_in_the_order_of_names(tmp_path):
    for name in ("validation/a/1.jpg", "train/b/2.png", "test/a/3.webp", "notes.txt"):
        save(tmp_path / name) if name != "notes.txt" else (tmp_path / name).write_text("no picture")
    assert [record.id for record in photo_records(tmp_path)] == [
        "test/a/3.webp",
        "train/b/2.png",
        "validation/a/1.jpg",
    ]


@pytest.mark.parametrize("column", ["caption", "text"])
def test_a_metadata_file_gives_class_and_caption_and_the_rest_is_kept(tmp_path, column):
    save(tmp_path / "train" / "1.jpg")
    save(tmp_path / "train" / "2.jpg")
    row = {"file_name": "1.jpg", "label": 3, column: "a cracked bezel"}
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps(row))
    first, second = photo_records(tmp_path)
    assert (first.label, first.caption) == ("3", "a cracked bezel")
    assert (second.label, second.caption) == (None, None)


def test_one_file_is_a_photo(tmp_path):
    (record,) = photo_records(save(tmp_path / "claim.png"))
    assert record.id == "claim.png"


def test_a_wrong_path_and_a_folder_without_pictures_are_said(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"did you mean .*photos"):
        photo_records(tmp_path / "photoss")
    with pytest.raises(DataError, match="no photos in"):
        photo_records(tmp_path / "photos")


def test_photos_come_at_every_size_and_the_unreadable_are_told(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", color=(number, 0, 0))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    told = []
    batches = list(
        decoded_batches(
            photo_records(tmp_path),
            [(16, 24), (32, 48)],
            channels=3,
            batch_size=2,
            on_unreadable=lambda record, why: told.append((record.id, why)),
        )
    )
    assert [len(batch) for batch in batches] == [2, 1, 1]
    assert [record.id for batch in batches for record in batch.records] == ["0.png", "1.png", "3.png", "4.png"]
    assert [name for name, _ in told] == ["2.png"]
    small, large = batches[0].images
    assert small.shape == (2, 16, 24, 3)
    assert large.shape == (2, 32, 48, 3)
    assert np.unique(small[1, ..., 0]).tolist() == [1]


def test_whole_photos_keep_their_proportions_and_the_unreadable_are_told(tmp_path):
    sizes = [(40, 30), (400, 100), (30, 400), (64, 64), (1, 200)]
    for number, size in enumerate(sizes):
        save(tmp_path / f"{number}.png", color=(number, 0, 0), size=size)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    told = []
    batches = list(
        whole_batches(
            photo_records(tmp_path), 100, batch_size=2, on_unreadable=lambda record, why: told.append(record.id)
        )
    )
    assert [[record.id for record in batch.records] for batch in batches] == [["0.png", "1.png"], ["2.png"]]
    assert [len(batch) for batch in batches] == [2, 1]
    shapes = [picture.shape for batch in batches for picture in batch.pictures]
    assert shapes == [(30, 40, 3), (25, 100, 3), (100, 8, 3)]  # never enlarged
    assert told == ["3.png", "4.png"]


def test_a_photo_is_decoded_upright_and_whole_within_a_side(tmp_path):
    upright = Image.new("RGB", (300, 400), "green")
    upright.paste("red", (0, 0, 300, 40))
    exif = Image.Exif()
    exif[0x112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    pixels = decode_within(tmp_path / "turned.png", 100)
    assert (pixels.shape, pixels.dtype) == ((100, 75, 3), np.uint8)
    assert pixels[2, 40].tolist() == [255, 0, 0]
    grey = decode_within(Image.new("L", (30, 20), 7), 100)
    assert grey.shape == (20, 30, 3)
    assert (grey == 7).all()
    with pytest.raises(UnreadablePictureError):
        decode_within(tmp_path / "absent.png", 100)
