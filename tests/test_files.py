"""Files that appear as a whole or not at all; whatever fails, it is the file's own name that is told."""

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vae_ldm import files
from vae_ldm.errors import DataError, RunError
from vae_ldm.files import (
    finish_swap,
    is_temporary,
    locked,
    naming,
    remove_abandoned,
    safe_name,
    whole_folder,
    write_json,
    write_whole,
)


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


# --- what is temporary belongs to one call ----------------------------------------------------------------------------


def test_a_users_part_file_is_neither_written_nor_deleted(tmp_path):
    (tmp_path / "file.part").write_text("precious")
    write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file.part").read_text() == "precious"


def test_a_link_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "page.html.part").symlink_to("victim")
    (tmp_path / "page.html").symlink_to("victim")
    write_whole(tmp_path / "page.html", "new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "page.html").read_text() == "new"


def test_a_new_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    write_whole(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_of_the_longest_name_can_be_written(tmp_path):
    write_whole(tmp_path / ("n" * 255), "text")
    assert [file.name for file in tmp_path.iterdir()] == ["n" * 255]


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from vae_ldm.files import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as part: (part / 'a').touch(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert is_temporary(left)
    for name in ("out.part", ".vae_ldm-notes.part"):
        (tmp_path / name).mkdir()
    with whole_folder(tmp_path / "other"):
        remove_abandoned(tmp_path)  # what is being written stays
        assert sum(map(is_temporary, tmp_path.iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"other", "out.part", ".vae_ldm-notes.part"}


def test_what_another_machine_left_is_deleted_after_a_day(tmp_path):
    for name, age in (("fresh", 0.0), ("stale", 90_000.0)):
        part = tmp_path / f".vae_ldm-0123abcd-1-{name}.part"
        part.touch()
        os.utime(part, (part.stat().st_mtime - age,) * 2)
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".vae_ldm-0123abcd-1-fresh.part"]


# --- folders that take the place of others ----------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(target: Path, name: str, **options: bool) -> None:
    with whole_folder(target, **options) as part:
        (part / name).touch()


def test_a_failed_write_leaves_the_old_json(tmp_path):
    file = tmp_path / "state.json"
    write_json(file, {"a": 1})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert file.read_bytes() == before


def test_a_folder_takes_its_place_only_when_all_went_well(tmp_path):
    target = tmp_path / "pipeline"
    with whole_folder(target) as part:
        (part / "a").touch()
        assert not target.exists()
    assert names(target) == ["a"]

    with pytest.raises(FileNotFoundError), whole_folder(target) as part:
        (part / "absent" / "b").touch()
    assert names(target) == ["a"]
    assert names(tmp_path) == ["pipeline"]

    fill(target, "c")
    assert names(target) == ["c"]
    assert names(tmp_path) == ["pipeline"]


def test_a_folder_that_cannot_be_filled_is_named_as_it_was_to_be(tmp_path):
    target = tmp_path / "film"

    def fail():
        with whole_folder(target) as part:
            raise OSError(errno.ENOSPC, "No space left on device", str(part / "strip.png"))

    with pytest.raises(OSError, match="No space") as caught:
        fail()
    assert caught.value.filename == str(target / "strip.png")


def test_a_link_to_a_folder_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "big-disk" / "old").touch()
    (tmp_path / "pipeline").symlink_to("big-disk")
    fill(tmp_path / "pipeline", "new")
    assert names(tmp_path / "pipeline") == ["new"]
    assert names(tmp_path / "big-disk") == ["old"]


SWAP = """
import os, sys
from pathlib import Path
from vae_ldm import files
steps, calls = int(sys.argv[2]), [0]
def dying(real):
    def call(*arguments, **options):
        calls[0] += 1
        if calls[0] > steps: os.kill(os.getpid(), 9)
        return real(*arguments, **options)
    return call
for name in ("rename", "unlink", "rmdir"): setattr(os, name, dying(getattr(os, name)))
with files.whole_folder(Path(sys.argv[1])) as part:
    for name in ("new", "other"): (part / name).touch()
print("done")
"""


def test_a_swap_that_was_killed_anywhere_is_finished_by_the_next_call(tmp_path):
    for steps in range(20):
        target = tmp_path / str(steps) / "novelty"
        for name in ("old", "older"):
            (target / "folder").mkdir(parents=True, exist_ok=True)
            (target / "folder" / name).touch()
        swap = subprocess.run([sys.executable, "-c", SWAP, target, str(steps)], capture_output=True, check=False)
        finish_swap(target)
        if steps == 0:
            assert names(target) == ["folder"]  # the new one was never complete
            assert names(target / "folder") == ["old", "older"]
        else:
            assert names(target) == ["new", "other"], f"killed at call {steps}"
        remove_abandoned(target.parent)
        assert [name for name in names(target.parent) if "swap" not in name] == ["novelty"]
        if swap.returncode == 0:
            break
    assert steps >= 6  # two renames and four deletions at least could be cut off
    assert swap.stdout == b"done\n"


def test_a_swap_can_be_finished_where_the_folder_is_the_current_one(tmp_path, monkeypatch):
    fill(tmp_path / "out", "a")
    monkeypatch.chdir(tmp_path / "out")
    finish_swap(Path())
    finish_swap(Path("/"))
    finish_swap(Path("n" * 255))
    assert names(tmp_path) == ["out"]


def test_of_two_that_write_to_one_folder_the_last_to_end_keeps_it(tmp_path):
    target, inner_is_done, seen = tmp_path / "export", threading.Event(), []

    def outer():
        with whole_folder(target) as part:
            (part / "outer").touch()
            inner_is_done.wait(60)
            seen.append(names(target))

    thread = threading.Thread(target=outer)
    thread.start()
    fill(target, "inner")
    inner_is_done.set()
    thread.join()
    assert seen == [["inner"]]
    assert names(target) == ["outer"]
    assert names(tmp_path) == ["export"]


def test_a_folder_that_must_not_be_replaced_is_the_first_ones(tmp_path):
    target = tmp_path / "pulled"
    with pytest.raises(FileExistsError) as caught, whole_folder(target, replaces=False):
        fill(target, "first", replaces=False)
    assert caught.value.filename == str(target)
    assert names(target) == ["first"]
    assert names(tmp_path) == ["pulled"]


# --- locks ------------------------------------------------------------------------------------------------------------

OLD_CODE = """
import fcntl, sys
with open(sys.argv[1], sys.argv[2]) as file:
    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: sys.exit("refused")
    if sys.argv[2] == "r+":
        file.truncate(0); file.write("process 7 on elsewhere\\n"); file.flush()
    print("held", flush=True); sys.stdin.read()
"""


@pytest.mark.parametrize("mode", ["r+", "w", "a"])
def test_a_process_of_version_0_1_and_one_of_today_exclude_each_other(tmp_path, mode):
    lock = tmp_path / "lock"
    lock.touch()
    command = [sys.executable, "-S", "-c", OLD_CODE, str(lock), mode]
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with locked(lock, "runs/a: another process is running here"):
        assert lock.read_text() == f"{holder}\n"
        old = subprocess.run(command, capture_output=True, text=True, check=False)
        assert old.stderr == "refused\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as old:
        assert old.stdout is not None
        assert old.stdout.readline() == "held\n"
        known = {"r+": " (process 7 on elsewhere)", "w": "", "a": f" ({holder})"}[mode]
        with pytest.raises(RunError) as caught, locked(lock, "runs/a: another process is running here"):
            pass
        assert str(caught.value) == f"runs/a: another process is running here{known}; wait for it, or stop it"
        old.kill()
    with locked(lock, "a lock dies with its process"):
        pass
    assert names(tmp_path) == ["lock"]


def test_who_is_refused_leaves_the_holders_name(tmp_path):
    with locked(tmp_path / "lock", "held"):
        with pytest.raises(RunError, match="held"), locked(tmp_path / "lock", "held"):
            pass
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on")


def test_no_module_needs_what_windows_lacks():
    package = Path(files.__file__).parent
    assert [str(file) for file in package.rglob("*.py") if "import fcntl" in file.read_text(encoding="utf-8")] == []
