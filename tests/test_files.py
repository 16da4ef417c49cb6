"""Files that appear as a whole or not at all; whatever fails, it is the file's own name that is told."""

import errno
import subprocess
from pathlib import Path

import pytest

from vae_ldm.files import naming, write_whole


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
