"""Files that appear as a whole or not at all; whatever fails, it is the file's own name that is told."""

import errno
import subprocess
from pathlib import Path

import pytest

from vae_ldm.errors import DataError
from vae_ldm.files import naming, safe_name, write_whole


def test_a_file_is_there_as_a_whole(tmp_path):
    for content in (b"bytes", "text, ä"):
        write_whole(tmp_path / "file", content, synced=True)
        expected = content if isinstance(content, bytes) else content.encode()
        assert (tmp_path / "file").read_bytes() == expected
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_names_that_are_no_text_are_written_as_they_are(tmp_path):
    write_whole(tmp_path / "file", "\udcff.png")
    assert (tmp_path / "file").read_bytes() == b"\xff.png"


def test_a_full_disk_leaves_what_was_there_and_names_it(small_disk):
    file = small_disk(64) / "file"
    write_whole(file, b"before")
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(file, bytes(2**17))
    assert caught.value.filename == str(file)
    assert file.read_bytes() == b"before"
    assert [each.name for each in file.parent.iterdir()] == ["file"]


def test_a_read_only_disk_is_named_by_the_file(small_disk):
    folder = small_disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_whole(folder / "file", b"")
    assert caught.value.filename == str(folder / "file")


@pytest.mark.parametrize(
    ("raised", "name"),
    [
        (OSError(errno.ENOSPC, "it fails"), "there/out"),
        (OSError(errno.ENOSPC, "it fails", "there/out.part"), "there/out"),
        (OSError(errno.ENOSPC, "it fails", "there/out.part/a/b.png"), "there/out/a/b.png"),
        (OSError(errno.ENOENT, "it fails", "photos/1.png"), "photos/1.png"),
        (OSError("it fails"), None),
    ],
)
def test_what_is_temporary_is_not_told(raised, name):
    with pytest.raises(OSError, match="it fails") as caught, naming(Path("there/out"), Path("there/out.part")):
        raise raised
    assert caught.value.filename == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../victim", "/etc/passwd", "a/../../victim", "a//b", "a/", "\0", "a\0.png", None, 3, ["a"], b"a"],
)
@pytest.mark.parametrize("has_folders", [False, True])
def test_a_stored_name_that_leads_elsewhere_is_refused(name, has_folders):
    with pytest.raises(DataError, match=r"there/archive\.json: names .*, which is no file of this folder"):
        safe_name(name, Path("there/archive.json"), has_folders=has_folders)


@pytest.mark.parametrize("name", ["a/b.png", "a\\b.png", "..\\victim", "C:victim", "C:\\victim"])
def test_where_one_file_is_named_no_folder_and_no_drive_belongs(name):
    with pytest.raises(DataError, match="names"):
        safe_name(name, Path("archive.json"))


@pytest.mark.parametrize("name", ["part-00001.parquet", "..hidden", "a b.png", "é.png", "caf\udce9.png", "it..is.png"])
def test_a_name_within_the_folder_is_given_back(name):
    assert safe_name(name, Path("archive.json")) == name
    assert safe_name(f"red/{name}", Path("archive.json"), has_folders=True) == f"red/{name}"


def test_a_backslash_in_a_photos_name_is_no_separator_here():
    assert safe_name("red\\1.png", Path("archive.json"), has_folders=True) == "red\\1.png"
