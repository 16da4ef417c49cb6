"""One folder of every odd file and name, walked by every verb: each file is used, named or counted; no traceback.

What a source of photos makes of each file is tested in tests/data/test_odd_photos.py; here it is what users are told.
"""

import re

import pytest
from typer.testing import CliRunner

from tests.support.odd_photos import OddPhotos, build_odd_photos
from vae_ldm.cli import app
from vae_ldm.data import listing
from vae_ldm.data.names import as_text
from vae_ldm.data.unreadable import MAX_SHOWN
from vae_ldm.desk.archive.store import open_archive
from vae_ldm.desk.search.folder_store import IndexFolder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> OddPhotos:
    """The folder, which no test writes into."""
    return build_odd_photos(tmp_path_factory.mktemp("odd"))


@pytest.fixture
def told(odd, trained_run, tiny_backbone, tmp_path, monkeypatch, caplog):
    """Runs a verb with PHOTOS, RUN, EYE and names in the temporary folder; gives its exit code and all that it says."""
    monkeypatch.chdir(tmp_path)
    places = {"PHOTOS": str(odd.path), "RUN": str(trained_run.path), "EYE": tiny_backbone}

    def run(command: str) -> tuple[int, str]:
        caplog.clear()
        listing._told.clear()  # as in a process of its own
        result = CliRunner().invoke(app, [places.get(word, word) for word in command.split()])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        said = "\n".join([result.output, *(record.getMessage() for record in caplog.records)])
        assert "Traceback" not in said
        assert all(line.isprintable() for line in said.split("\n")), ascii(said)
        return result.exit_code, said

    return run


def assert_all_told(odd: OddPhotos, said: str, unreadable: set[str] | None = None) -> None:
    """Every unreadable photo is named or counted, and so is what could be a photo and is none."""
    num_photos = len(odd.readable) + len(odd.unreadable)
    unreadable = set(odd.unreadable) if unreadable is None else unreadable
    assert f"{len(unreadable)} of {num_photos} photos cannot be read" in said, said
    names = re.findall(r"left out (\S+): ", said)
    assert len(unreadable.intersection(names)) >= MAX_SHOWN
    assert f"left out {len(unreadable) - MAX_SHOWN} more" in said
    for name, reason in {"dent/gone.jpg": "a link to nothing", "dent/pipe.jpg": "not a regular file"}.items():
        assert name in odd.left_out
        assert reason in said
    assert "convert them to JPEG or PNG" in said


@pytest.mark.slow
def test_an_archive_gives_every_photo_back(odd, told, tmp_path) -> None:
    code, said = told("archive add a PHOTOS --model RUN")
    assert code == 2
    kept_all_the_same = {"dent/dot.png"}  # of one pixel: too small for a network, but not for an archive
    unreadable = odd.unreadable.keys() - kept_all_the_same
    assert_all_told(odd, said, unreadable)
    listed = (tmp_path / "a" / "unreadable.txt").read_text().splitlines()
    assert {line.partition(":")[0] for line in listed} == unreadable
    ids = {entry.id for entry in open_archive(tmp_path / "a").entries(print)}
    assert ids == {as_text(name) for name in odd.readable} | kept_all_the_same
    code, said = told("archive list a")
    assert code == 0
    assert f"{len(ids)} photos" in said
    code, said = told("archive extract a --out out")
    assert code == 0, said
    assert f"{len(ids)} photos written to out" in said


def test_an_index_holds_every_photo(odd, told, tmp_path) -> None:
    code, said = told("index build i PHOTOS --model RUN --features latents")
    assert code == 2
    assert_all_told(odd, said)
    assert len(IndexFolder(tmp_path / "i")) == len(odd.readable)
    code, said = told("index add i PHOTOS")
    assert code == 2
    assert f"0 photos added, {len(odd.readable)} were in already" in said
    code, said = told("index query i PHOTOS -k 1 --out sheet.png")
    assert code == 2
    assert_all_told(odd, said)


def test_a_detector_and_a_desk_judge_every_photo(odd, told, tmp_path) -> None:
    code, said = told("desk d PHOTOS --model RUN --features latents --backbone EYE --false-alarm-rate 0.2")
    assert code == 2
    assert_all_told(odd, said)
    code, said = told("novelty score PHOTOS d/novelty --out scores.csv --heat-maps maps")
    assert code == 2
    assert_all_told(odd, said)
    scores = (tmp_path / "scores.csv").read_text()
    assert scores.count(",unreadable,") == len(odd.unreadable)
    assert scores.count(",seen,") + scores.count(",novel,") == len(odd.readable)
    for name in ("turned.jpg", "panorama.jpg", "thermal.tif"):
        photo = odd.path / "dent" / name
        code, said = told(f"claim {photo} --desk d --num-variations 0")
        assert code == 0, said
    code, said = told(f"claim {odd.path / 'dent' / 'truncated.jpg'} --desk d --num-variations 0")
    assert (code, said.count("error: ")) == (2, 1)


@pytest.mark.slow
def test_what_measures_photos_counts_those_that_it_cannot_read(odd, told) -> None:
    code, said = told("compare PHOTOS RUN --num-photos 1000 --side 16")
    assert code == 2
    assert_all_told(odd, said)
    code, said = told("archive report PHOTOS --model RUN -n 10")
    assert code == 2
    assert re.search(r"\d of 10 photos cannot be read; the others are measured in archive\.html", said)


def test_what_draws_leaves_them_out(odd, told) -> None:
    code, said = told("walk PHOTOS --model RUN")
    assert (code, said.count("error: ")) == (2, 1)
    photo = odd.path / "dent" / "turned.jpg"
    code, said = told(f"walk {photo} --model RUN --like PHOTOS --steps 2 --smooth 1 --denoising-steps 1")
    assert code == 2
    assert_all_told(odd, said)
    code, said = told("augment PHOTOS --model RUN --per-class 1")
    assert code == 2
    assert "was not trained on the classes" in said
