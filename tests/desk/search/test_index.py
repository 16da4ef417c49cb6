"""Building, adding and asking by the verbs' own functions, on a real run's autoencoder."""

import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.postgres import postgres_server
from tests.processes import two_processes
from tests.run.start_points import SD, save_autoencoder
from tests.support.fork_server import fork
from vae_ldm import weights
from vae_ldm.cli import app
from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk import command
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.desk.search import build
from vae_ldm.desk.search.build import add_photos, build_index
from vae_ldm.desk.search.folder_store import IndexFolder
from vae_ldm.desk.search.index import open_index
from vae_ldm.desk.search.query import query_index
from vae_ldm.errors import DataError, ManyUnreadableError, RunError, VaeLdmError, WeightsError
from vae_ldm.models.vision_features import EfficientNetLiteFeatures

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (40, 50, 190)}


def save_photos(folder, count=24, seed=0):
    """Photos of three colours, each in its class's folder."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        name, color = list(COLOURS.items())[number % 3]
        pixels = np.clip(rng.normal(color, 25, (20, 24, 3)), 0, 255).astype(np.uint8)
        file = folder / name / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((48, 40)).save(file)
    return folder


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos")


@pytest.fixture
def model(trained_run):
    return str(trained_run.path)


@pytest.fixture
def index(tmp_path, photos, model):
    build_index(tmp_path / "index", photos, model=model, kind="latents")
    return tmp_path / "index"


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(build, "COMMIT_PHOTOS", 5)
    monkeypatch.setattr(command, "BATCH_SIZE", 2)
    monkeypatch.setattr(build, "FIT_PHOTOS", 8)


def rows(index):
    """Every photo and its vector."""
    store = IndexFolder(index)
    return store._photos.to_pylist(), torch.from_numpy(store._vectors(np.arange(len(store))))


def test_a_photo_finds_itself_and_then_its_class(index, photos):
    opened = open_index(index)
    assert len(opened) == 24
    assert opened.features_name == "latents"
    records = photo_records(photos)
    for record, hits in zip(records, opened.query(records, k=4), strict=True):
        assert len(hits) == 5
        assert hits[0].same_photo
        assert hits[0].photo.id == record.id
        assert hits[0].similarity == pytest.approx(1, abs=1e-4)
        assert hits[0].photo.path == str(record.picture)
        assert not any(hit.same_photo for hit in hits[1:])
    right = [
        hits[1].photo.label == record.label for record, hits in zip(records, opened.query(records, 4), strict=True)
    ]
    assert sum(right) >= 14  # by chance 8; the autoencoder has seen 6 steps


def test_a_photo_that_is_not_in_gets_no_more_than_asked_for(index, tmp_path):
    folder = save_photos(tmp_path / "new", 1, seed=9)
    opened = open_index(index)
    (hits,) = opened.query(photo_records(folder), k=4)
    assert [hit.same_photo for hit in hits] == [False] * 4
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    for photo in (folder, str(file), Image.open(file)):
        assert opened.query(photo, k=4) == [hits]


@pytest.mark.parametrize("kind", ["backbone", "both"])
def test_other_features(tmp_path, photos, model, kind):
    opened = build_index(tmp_path / "index", photos, model=model, kind=kind)
    assert "EffLite0" in opened.features_name
    again = open_index(tmp_path / "index")
    records = photo_records(photos)[:2]
    assert again.query(records, 3) == opened.query(records, 3)


def test_repeating_adds_nothing_and_new_photos_are_added(index, photos, model, capsys):
    before = rows(index)
    build_index(index, photos, model=model, kind="latents")
    assert "0 photos added, 24 were in already, 0 cannot be read" in capsys.readouterr().err
    assert rows(index)[0] == before[0]
    save_photos(photos, 30)
    shutil.copy(
        photos / "red" / "000.png", photos / "red" / "copy.png"
    )  # the same content by another name is another photo
    add_photos(index, photos)
    assert "7 photos added, 24 were in already" in capsys.readouterr().err
    assert len(IndexFolder(index)) == 31


def test_small_steps_and_two_processes_give_the_same_index(index, tmp_path, photos, model, small_steps):
    build_index(tmp_path / "small", photos, model=model, kind="latents")
    with two_processes() as two:
        two(build_on_two, index=str(tmp_path / "two"), photos=str(photos), model=model)
    expected, vectors = rows(tmp_path / "small")
    found, others = rows(tmp_path / "two")
    assert found == expected == rows(index)[0]
    assert torch.equal(others, vectors)


def build_on_two(index: str, photos: str, model: str) -> None:
    from pathlib import Path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "COMMIT_PHOTOS", 5)
        patch.setattr(command, "BATCH_SIZE", 2)
        patch.setattr(build, "FIT_PHOTOS", 8)
        build_index(index, Path(photos), model=model, kind="latents")


def test_a_stop_in_the_middle_loses_one_step_and_repeating_goes_on(tmp_path, photos, model, small_steps, monkeypatch):
    build_index(tmp_path / "whole", photos, model=model, kind="latents")
    add, calls = IndexFolder.add, []

    def stopping(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(self, *arguments)

    monkeypatch.setattr(IndexFolder, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "index", photos, model=model, kind="latents")
    assert len(IndexFolder(tmp_path / "index")) == 10
    build_index(tmp_path / "index", photos, model=model, kind="latents")
    expected, vectors = rows(tmp_path / "whole")
    found, others = rows(tmp_path / "index")
    assert found == expected
    torch.testing.assert_close(others, vectors, atol=1e-5, rtol=1e-4)


def build_slowly(target: Path, photos: Path, model: str) -> None:
    """An index in parts of two photos, each part followed by a pause."""
    add = IndexFolder.add

    def slowly(self: IndexFolder, *arguments: Any) -> None:
        add(self, *arguments)
        time.sleep(0.3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "COMMIT_PHOTOS", 2)
        patch.setattr(IndexFolder, "add", slowly)
        build_index(target, photos, model=model, kind="latents")


@pytest.mark.slow
def test_kill_9_in_the_middle_and_the_same_command_again(tmp_path, photos, model, index):
    target = tmp_path / "killed"
    process = fork(build_slowly, target, photos, model)
    while not (IndexFolder.exists(target) and len(list(target.glob("part-*.npy"))) and len(IndexFolder(target)) >= 6):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 6 <= len(IndexFolder(target)) < 24
    build_index(target, photos, model=model, kind="latents")
    assert rows(target)[0] == rows(index)[0]


def test_bad_photos_are_told_and_the_good_ones_are_in(tmp_path, photos, model, capsys):
    broken = photos / "red" / "broken.png"
    broken.write_bytes((photos / "red" / "000.png").read_bytes()[:200])
    bomb = photos / "red" / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    with pytest.raises(ManyUnreadableError, match=r"^2 of 26 photos cannot be read; the others are in the index$"):
        build_index(tmp_path / "index", photos, model=model, kind="latents")
    said = capsys.readouterr().err
    assert "24 photos added, 0 were in already, 2 cannot be read" in said
    assert re.search(r"left out red/bomb\.png: too large \(20000x20000 pixels are more than", said)
    assert "left out red/broken.png: " in said
    with pytest.raises(DataError, match=r"/red/bomb\.png: cannot be read \(too large \(20000x20000"):
        open_index(tmp_path / "index").query(photo_records(bomb))
    with pytest.raises(DataError, match=r"none of 1 photo can be read \(bomb\.png: too large \(20000x20000"):
        query_index(tmp_path / "index", bomb)
    (tmp_path / "bad").mkdir()
    shutil.copy(broken, tmp_path / "bad")
    with pytest.raises(DataError, match="none of 1 photo can be read"):
        build_index(tmp_path / "none", tmp_path / "bad", model=model, kind="latents")
    assert not IndexFolder.exists(tmp_path / "none")


def test_another_model_is_refused_and_one_that_has_moved_is_found_by_its_new_place(index, tmp_path, photos, model):
    save_autoencoder(tmp_path / "sd", **SD)
    for call in (
        lambda: open_index(index, model=str(tmp_path / "sd")),
        lambda: add_photos(index, photos, model=str(tmp_path / "sd")),
        lambda: build_index(index, photos, model=str(tmp_path / "sd"), kind="latents"),
    ):
        with pytest.raises(WeightsError, match=r"was built with another model.*another autoencoder"):
            call()
    with pytest.raises(VaeLdmError, match=r"other features \(latents\)"):
        build_index(index, photos, model=model, kind="backbone")
    shutil.copytree(model, tmp_path / "moved")
    IndexFolder(index)._replace_index(model=str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match="is gone; say with --model where it lies now"):
        open_index(index)
    assert len(open_index(index, model=str(tmp_path / "moved"))) == 24


def test_a_query_prints_a_table_json_and_a_sheet(index, photos, tmp_path, capsys):
    (photos / "blue" / "002.png").unlink()
    query_index(index, photos / "red" / "003.png", k=23, out=tmp_path / "sheet.png")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "003.png"
    assert printed[2].split()[:3] == ["=", "1.000", "red"]
    assert printed[2].endswith("003.png (the same photo)")
    assert [line.split()[0] for line in printed[3:-1]] == [str(rank) for rank in range(1, 24)]
    assert printed[-1] == f"similarity: cosine of latents, among 24 photos of {index}"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 5 * 144 < sheet.width < 6 * 144  # 24 pictures: five columns
        assert 5 * 144 < sheet.height < 6 * 166

    query_index(index, photos / "red", k=2, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["num_photos"], answer["features"], len(answer["queries"])) == (24, "latents", 8)
    first = answer["queries"][0]["hits"][0]
    assert (first["id"], first["label"], first["same_photo"]) == ("red/000.png", "red", True)


def test_captions_of_strangers_cannot_steer_the_terminal(tmp_path, photos, model, capsys):
    row = {"file_name": "red/000.png", "text": "[bold]\x1b[31m'; DROP TABLE x; --"}
    (photos / "metadata.jsonl").write_text(json.dumps(row))
    build_index(tmp_path / "index", photos, model=model, kind="latents")
    query_index(tmp_path / "index", photos / "red" / "000.png", k=1)
    printed = capsys.readouterr().out
    assert r"[bold]\x1b[31m'; DROP TABLE x; --" in printed
    assert "\x1b" not in printed


def test_one_writer_at_a_time(index, photos):
    save_photos(photos, 27)
    with IndexFolder(index).writing(), pytest.raises(RunError, match="another process is adding photos"):
        add_photos(index, photos)
    add_photos(index, photos)
    assert len(IndexFolder(index)) == 27


def test_a_full_disk_is_one_line_and_room_made_the_index_goes_on(small_disk, tmp_path, photos, model, small_steps):
    disk = small_disk(4)
    command = ["index", "build", str(disk / "index"), str(photos), "--model", model, "--features", "latents"]
    full = []
    for kilobytes in (4, 12, 16, 24):  # the space, the first part, the index that names it, the part that replaces it
        small_disk(kilobytes)
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1, result.output
        (error,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert error.endswith(": No space left on device")
        full.append(error)
    assert len(set(full)) > 1  # not always the same file
    assert len(IndexFolder(disk / "index")) == 5
    small_disk(4000)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert len(IndexFolder(disk / "index")) == 24


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "i", "absent", "--model", "index"], 2, "absent: no such folder"),
        (["build", "i", "photos", "--model", "m"], 2, "m: no such folder"),
        (["add", "absent", "photos"], 2, "absent: no such folder, so no index"),
        (["query", "photos", "photos"], 2, "photos: is no index"),
        (["query", "i", "photos", "--store", "mysql://x"], 2, "names no database"),
        (["query", "index", "absent.jpg"], 2, "absent.jpg: no such photo"),
        (["query", "index", "photos", "--out", "nowhere/sheet.png"], 2, "no such folder"),
    ],
)
def test_wrong_calls_are_one_line(index, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["index", *arguments])
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_same_verbs_on_postgres(tmp_path, photos, model, capsys):
    with postgres_server() as url:
        build_index("claims", photos, model=model, kind="latents", store=url)
        build_index(tmp_path / "index", photos, model=model, kind="latents")
        save_photos(photos, 27)
        add_photos("claims", photos, store=url)
        assert "3 photos added, 24 were in already" in capsys.readouterr().err
        add_photos(tmp_path / "index", photos)
        records = photo_records(photos)[:5]
        served, own = (
            open_index("claims", store=url).query(records, 5),
            open_index(tmp_path / "index").query(records, 5),
        )
        for one, other in zip(served, own, strict=True):
            assert [hit.photo for hit in one] == [hit.photo for hit in other]
            np.testing.assert_allclose([h.similarity for h in one], [h.similarity for h in other], atol=1e-5)
        save_autoencoder(tmp_path / "sd", **SD)
        with pytest.raises(WeightsError, match="was built with another model"):
            open_index("claims", model=str(tmp_path / "sd"), store=url)


def test_a_stored_name_is_never_looked_for_on_the_hub(index, photos, model, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "download", lambda name, **_: asked.append(name))
    IndexFolder(index)._replace_index(model="evil/tracker")
    with pytest.raises(WeightsError, match=r"evil/tracker is no folder on this machine.*--model evil/tracker"):
        open_index(index)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *place, **_: asked.append(place))
    with pytest.raises(WeightsError, match=r"backbone evil/eye is not on this machine.*hf download evil/eye"):
        PhotoEncoder(model, kind="backbone", backbone="evil/eye", backbone_downloads=False)
    assert not asked


def test_names_that_are_no_utf_8_are_indexed_and_found(tmp_path, photos, model):
    odd = photos / os.fsdecode(b"besch\xe4digt")
    (photos / "red").rename(odd)
    (odd / "000.png").rename(odd / os.fsdecode(b"caf\xe9.png"))
    opened = build_index(tmp_path / "index", photos, model=model, kind="latents")
    record = next(record for record in photo_records(photos) if "caf" in record.id)
    (hits,) = opened.query([record], k=1)
    assert (hits[0].photo.id, hits[0].photo.label) == (r"besch\xe4digt/caf\xe9.png", r"besch\xe4digt")
    assert hits[0].same_photo
    query_index(tmp_path / "index", photos, k=1, model=model, out=tmp_path / "sheet.png")
    add_photos(tmp_path / "index", photos)
    assert len(open_index(tmp_path / "index")) == 24


def test_an_index_of_unfolded_features_is_searched_by_folded_ones(tmp_path, photos, model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EfficientNetLiteFeatures, "folded", lambda self: self)  # as version 0.1.0 looked at photos
        old = build_index(tmp_path / "index", photos, model=model, kind="both")
        records = photo_records(photos)
        expected = old.query(records, k=5)
    found = open_index(tmp_path / "index").query(records, k=5)
    assert [[hit.photo.id for hit in hits] for hits in found] == [[hit.photo.id for hit in hits] for hits in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose([h.similarity for h in one], [h.similarity for h in other], atol=1e-5)
