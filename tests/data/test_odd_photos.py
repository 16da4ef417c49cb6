"""Every file of a folder is used, named or counted by whatever reads a folder of photos."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.closed_folder import close
from tests.support.odd_photos import OddPhotos, build_odd_photos, png_header
from vae_ldm.data.decoding import (
    UnreadablePictureError,
    decode_picture,
    decode_whole,
    pillow_limit_lifted,
    upright_size,
)
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.listing import find_photos, list_folder
from vae_ldm.data.names import as_bytes, as_text
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.photo_sample import sample_photos
from vae_ldm.data.photo_stream import decoded_batches
from vae_ldm.data.picture_cache import load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.unreadable import Unreadable
from vae_ldm.errors import DataError, ManyUnreadableError
from vae_ldm.text import shown


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> OddPhotos:
    """The folder, which no test writes into."""
    return build_odd_photos(tmp_path_factory.mktemp("odd"))


def _texts(names: Iterable[str]) -> list[str]:
    return sorted(as_text(name) for name in names)


def test_every_file_is_listed_or_left_out_with_its_reason(odd: OddPhotos) -> None:
    found = find_photos(odd.path)
    assert sorted(found.pictures) == sorted(odd.readable | odd.unreadable.keys())
    why = {name: reason for reason, names in found.left_out.items() for name in names}
    assert why.keys() == odd.left_out.keys() | odd.untold
    assert all(part in why[name] for name, part in odd.left_out.items())
    known = {*found.pictures, *found.metadata, *why}
    for folder, folders, files in os.walk(odd.path):
        inside = [str(Path(folder, name).relative_to(odd.path)) for name in [*files, *folders]]
        for name in inside:
            parents = {str(parent) for parent in Path(name).parents}
            assert name in known or parents & known or any(each.startswith(f"{name}/") for each in known), name


def test_what_could_be_a_photo_is_named_in_lines_that_a_terminal_takes(odd: OddPhotos) -> None:
    lines = find_photos(odd.path).lines()
    assert all(line.startswith("left out ") and line.isprintable() for line in lines)
    told = "\n".join(lines)
    assert "left out dent/IMG_1.HEIC and 1 more: .heic files are not read; convert them to JPEG or PNG" in lines
    assert "left out dent/endless.jpg and 1 more: not a regular file" in lines
    assert "notes.txt" not in told
    assert ".DS_Store" not in told


def test_the_stream_of_photos_decodes_or_names_each(odd: OddPhotos) -> None:
    records = photo_records(odd.path)
    assert sorted(record.id for record in records) == _texts(odd.readable | odd.unreadable.keys())
    assert {record.label for record in records} == {"dent", "scratch", "chip", r"besch\xe4digt"}
    unreadable = Unreadable()
    ids = [
        record.id
        for batch in decoded_batches(
            records,
            [(16, 16)],
            channels=3,
            on_unreadable=lambda record, reason: unreadable.add(record.id, reason),
        )
        for record in batch.records
    ]
    assert sorted(ids) == _texts(odd.readable)
    reasons = dict(unreadable.photos)
    assert reasons.keys() == odd.unreadable.keys()
    assert [name for name, part in odd.unreadable.items() if part not in reasons[name]] == [], reasons


def test_what_is_left_out_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    (tmp_path / "1.heic").touch()
    for _ in range(2):
        assert len(photo_records(tmp_path)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "left out 1.heic: .heic files are not read; convert them to JPEG or PNG"
    ]


def test_training_uses_or_lists_each(odd: OddPhotos, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = ImageFolderSource(odd.path)
    assert source.num_records("train") == len(odd.readable) + len(odd.unreadable)
    splits = load_pictures(source, tmp_path / "pictures", PictureSettings((16, 16), max_unreadable_share=0.5))
    assert sorted(splits.train.ids + splits.validation.ids) == _texts(odd.readable)
    assert sorted(line.split(": ")[0] for line in splits.unreadable) == sorted(odd.unreadable)
    assert splits.trained_classes == [0, 1, 2, 3]
    assert set(splits.validation.labels.tolist()) == {0, 1, 2, 3}
    messages = [record.getMessage() for record in caplog.records]
    assert all(message.isprintable() for message in messages)
    assert any("1 picture with a colour profile other than sRGB" in message for message in messages)
    assert f"left out {len(odd.unreadable) - 5} more" in messages
    with pytest.raises(DataError, match=r"more than max_unreadable_share 0\.01"):
        load_pictures(source, tmp_path / "pictures", PictureSettings((16, 16)))


def test_a_sample_counts_what_it_cannot_read(odd: OddPhotos) -> None:
    sample = sample_photos(odd.path, 1000, channels=3, multiple_of=8, side=16)
    assert sorted(sample.ids) == _texts(odd.readable)
    assert sample.num_unreadable == len(odd.unreadable)


def test_ids_are_text_and_different_names_have_different_ids(odd: OddPhotos) -> None:
    names = odd.readable | odd.unreadable.keys() | odd.left_out.keys()
    texts = _texts(names)
    assert len(set(texts)) == len(names)
    for name in names:
        as_text(name).encode()
        assert as_bytes(as_text(name)) == os.fsencode(name)
        assert shown(name).isprintable()
    assert as_text("train/dress/Käse 1.jpg") == "train/dress/Käse 1.jpg"
    with pytest.raises(UnicodeEncodeError):
        as_text("\ud800.png")


@pytest.mark.parametrize("name", ["dent/pipe.jpg", "dent/endless.jpg"])
def test_only_regular_files_are_opened(odd: OddPhotos, name: str) -> None:
    for read in (decode_whole, upright_size, lambda file: decode_picture(file, image_size=(8, 8))):
        with pytest.raises(UnreadablePictureError, match="not a regular file"):
            read(odd.path / name)


def test_a_line_too_long_for_pillow_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "line.png").write_bytes(png_header(70_000_000, 1))
    with pillow_limit_lifted(), pytest.raises(UnreadablePictureError, match="more memory than there is"):
        decode_whole(tmp_path / "line.png")


@pytest.mark.parametrize("name", ["turned.jpg", "cmyk.jpg", "palette.png", "panorama.jpg"])
def test_the_upright_size_is_that_of_the_decoded_picture(odd: OddPhotos, name: str) -> None:
    assert upright_size(odd.path / "dent" / name) == decode_whole(odd.path / "dent" / name).shape[:2]


def test_the_size_of_a_header_that_claims_too_much_is_refused_before_anything_is_decoded(odd: OddPhotos) -> None:
    with pillow_limit_lifted(), pytest.raises(UnreadablePictureError, match="more than max_pixels"):
        upright_size(odd.path / "dent" / "huge.png")


def test_links_to_one_folder_are_each_followed_and_those_that_go_round_are_told(tmp_path: Path) -> None:
    for name in ("raw/dent/0.png", "train/scratch/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    (tmp_path / "train" / "dent").symlink_to("../raw/dent")
    (tmp_path / "train" / "again").symlink_to("../raw/dent")
    (tmp_path / "raw" / "dent" / "root").symlink_to(tmp_path)
    source = ImageFolderSource(tmp_path)
    assert [record.id for record in source.records("train")] == [
        "train/again/0.png",
        "train/dent/0.png",
        "train/scratch/0.png",
    ]
    assert any("a link to a folder that it lies in" in line for line in source.remarks())


def test_folders_that_all_link_to_each_other_end_in_an_error(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        for other in "abcdefgh":
            (tmp_path / name / other).symlink_to(tmp_path / other)
    with pytest.raises(DataError, match="in more than 1,000 ways"):
        list_folder(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/0.png", "locked/0.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    close(tmp_path / "locked", monkeypatch)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = find_photos(tmp_path)
    assert found.pictures == ["a/0.png"]
    assert found.lines() == ["left out gone.png: a link to nothing", "left out locked: Permission denied"]
    assert found.unreadable == ["locked"]
    told: list[str] = []
    assert [record.id for record in photo_records(tmp_path, on_unreadable_folder=told.append)] == ["a/0.png"]
    assert told == ["locked"]


def test_photos_on_a_disk_that_is_not_mounted_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.jpg").symlink_to(f"/mnt/gone/{number}.jpg")
    with pytest.raises(DataError, match=r"no photos in .*: left out a/0.jpg and 2 more: a link to nothing$"):
        find_photos(tmp_path)


def test_the_reasons_have_one_wording_and_one_limit(tmp_path: Path) -> None:
    unreadable = Unreadable()
    for number in range(7):
        unreadable.add(f"{number}\n.jpg", "truncated")
    assert list(unreadable.lines()) == [*(rf"left out {n}\n.jpg: truncated" for n in range(5)), "left out 2 more"]
    unreadable.check(700, "the others are in")
    with pytest.raises(ManyUnreadableError, match=r"^7 of 699 photos cannot be read; the others are in$"):
        unreadable.check(699, "the others are in")
    unreadable.write(tmp_path / "list.txt")
    assert len((tmp_path / "list.txt").read_text().splitlines()) == 7
    Unreadable().write(tmp_path / "list.txt")
    assert not (tmp_path / "list.txt").exists()


def test_sixteen_bits_of_which_few_are_used_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        values = np.linspace(7000, 9000, 256, dtype=np.uint16).reshape(16, 16) + number
        Image.fromarray(values).save(tmp_path / f"{number}.tif")
    load_pictures(ImageFolderSource(tmp_path), tmp_path / "run" / "pictures", PictureSettings((16, 16)))
    assert "4 pictures of 16 bits: a typical one uses 9 of the 256 levels of 8 bits" in caplog.text
