"""A subfolder that cannot be looked into: the others are worked on, and the exit code says that photos are missing."""

import pytest
from typer.testing import CliRunner

from tests.support.closed_folder import close
from tests.support.small_networks import save_autoencoder
from tests.support.tin_photos import save_photos
from vae_ldm.cli import app
from vae_ldm.data.unreadable import Unreadable
from vae_ldm.desk.archive.store import open_archive
from vae_ldm.desk.search.folder_store import IndexFolder
from vae_ldm.errors import ManyUnreadableError

CLOSED = "the folder PHOTOS/locked cannot be looked into, so that nobody knows how many photos are left out; "


@pytest.fixture
def photos(tmp_path, monkeypatch):
    folder = save_photos(tmp_path / "photos" / "good", 9, seed=0).parent
    save_photos(folder / "locked", 1, seed=1)
    close(folder / "locked", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def told(photos, tiny_backbone, tmp_path, caplog):
    """Runs a verb with PHOTOS, MODEL and EYE; gives its exit code and the end of what it says."""
    save_autoencoder(tmp_path / "model", sample_size=32)
    places = {"PHOTOS": str(photos), "MODEL": "model", "EYE": tiny_backbone}

    def run(command):
        result = CliRunner().invoke(app, [places.get(word, word) for word in command.split()])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output.replace(str(photos), "PHOTOS")

    return run


def test_a_desk_an_index_and_a_detector_are_of_the_others(told, tmp_path):
    code, said = told("desk d PHOTOS --model MODEL --features latents --backbone EYE --false-alarm-rate 0.2")
    assert (code, said.count(f"error: {CLOSED}the others are in the index")) == (2, 1), said
    assert len(IndexFolder(tmp_path / "d" / "index")) == 9
    code, said = told("novelty fit PHOTOS --out n --backbone EYE --false-alarm-rate 0.2")
    assert (code, CLOSED in said) == (2, True)
    code, said = told("index add d/index PHOTOS")
    assert (code, f"{CLOSED}the others are in the index" in said) == (2, True)
    code, said = told("novelty score PHOTOS n --out scores.csv")
    assert (code, f"{CLOSED}the others are judged in scores.csv" in said) == (2, True)
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 10
    code, said = told("index query d/index PHOTOS -k 1")
    assert (code, f"{CLOSED}the others are answered" in said) == (2, True)
    code, said = told("novelty inspect n --good PHOTOS")
    assert (code, CLOSED in said) == (2, True)


def test_an_archive_is_of_the_others_and_does_not_verify(told, tmp_path):
    code, said = told("archive add a PHOTOS --model MODEL --target-psnr 10")
    assert (code, CLOSED in said) == (2, True)
    assert len(open_archive(tmp_path / "a")) == 9
    code, said = told("archive verify a PHOTOS")
    assert code == 1
    assert "PHOTOS/locked: cannot be looked into, so that nothing is compared with its photos" in said


def test_what_measures_says_so(told):
    for command in ("compare PHOTOS MODEL --side 32 --num-photos 2", "archive report PHOTOS --model MODEL -n 1"):
        code, said = told(command)
        assert (code, f"{CLOSED}the others are measured in" in said) == (2, True)


def test_photos_and_folders_are_told_together_and_each_folder_once(tmp_path):
    unreadable = Unreadable()
    unreadable.check(1, "done")
    for name in ("a", "b", "a"):
        unreadable.add_folder(tmp_path / name)
    assert unreadable
    folders = rf"the folder {tmp_path}/a and 1 more cannot be looked into, so that nobody knows .* left out; done"
    with pytest.raises(ManyUnreadableError, match=f"^{folders}$"):
        unreadable.check(200, "done")
    for number in range(3):
        unreadable.add(str(number), "empty")
    with pytest.raises(ManyUnreadableError, match=f"^3 of 200 photos cannot be read, and {folders}$"):
        unreadable.check(200, "done")
