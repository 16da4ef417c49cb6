"""What a detector leaves on disk: it is whole or it is none, and what is wrong with it is one line."""

import json
import shutil
from hashlib import sha256

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from tests.support.tin_photos import save_photos
from tests.support.tiny_backbone import save_backbone
from vae_ldm.cli import app
from vae_ldm.desk import backbone as backbone_module
from vae_ldm.desk.novelty.detector_folder import _KIND, open_detector, open_photos, save_detector
from vae_ldm.desk.novelty.fit import fit
from vae_ldm.errors import WeightsError
from vae_ldm.stored_json import StoredKind

FILES = ["detector.json", "detector.safetensors", "photos.json", "photos.safetensors"]


@pytest.fixture
def copied(detector, tmp_path):
    return shutil.copytree(detector, tmp_path / "copied")


def rewrite(folder, **changes):
    """Another detector.json, with the digest that fits it, as somebody would make it by hand."""
    stored = json.loads((folder / "detector.json").read_text())
    content = {name: value for name, value in {**stored, **changes}.items() if name != "digest"}
    del content["format"]
    (folder / "detector.json").write_text(json.dumps(_KIND.with_digest(content)))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("detector.safetensors", lambda content: content[:-1] + b"\x07", "safetensors: is damaged .its digest is anot"),
        ("detector.safetensors", lambda content: content[:100], "its digest is another"),
        ("photos.json", lambda content: content[:100], r"photos\.json: is damaged .its digest is another"),
        ("detector.json", lambda content: content[:100], "it is no JSON"),
        ("detector.json", lambda content: content.replace(b'"format": 5', b'"format": 9'), "a newer vae_ldm .format 9"),
        ("detector.json", lambda content: content.replace(b'"format": 5', b'"format": 0'), "has no format number"),
        ("detector.json", lambda content: content.replace(b'"num_ref', b'"num_fer'), "its digest is another"),
    ],
)
def test_damage_is_one_line(copied, file, change, message):
    (copied / file).write_bytes(change((copied / file).read_bytes()))
    with pytest.raises(WeightsError, match=message) as caught:
        open_detector(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_gone_is_named(copied, file):
    (copied / file).unlink()
    with pytest.raises(WeightsError, match=f"copied: is no detector .it has no {file}"):
        (open_photos if file == "photos.safetensors" else open_detector)(copied)


@pytest.mark.parametrize("file", ["detector.safetensors", "photos.safetensors", "photos.json"])
def test_a_damaged_detector_is_fitted_anew(few, tmp_path, file, capfd):
    """The cure that its error names works: nothing of it is needed."""
    save_photos(tmp_path / "photos", 9, seed=0)
    detector = few(tmp_path / "photos")
    before = (detector / file).read_bytes()
    (detector / file).write_bytes(before[:-1])
    capfd.readouterr()
    few(tmp_path / "photos")
    assert (detector / file).read_bytes() == before
    assert "is damaged" in capfd.readouterr().err


def test_what_is_no_detector_is_one_line(photos, tmp_path):
    for nothing in (photos, tmp_path / "absent", photos / "train" / "good" / "000.png"):
        with pytest.raises(WeightsError, match="is no detector") as caught:
            open_detector(nothing)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [
    {"false_alarm_rate": "0.05"}, {"only_classes": "good"}, {"num_reference": 1.5}, {"known_classes": None},
    {"backbone_digest": None}, {"files": None}, {"files": {}},
])  # fmt: skip
def test_facts_that_are_none_are_one_line(copied, change):
    rewrite(copied, **change)
    with pytest.raises(WeightsError, match=r"is damaged .*; fit the detector again") as caught:
        open_detector(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scores.held_out", lambda tensor: tensor[:3], r"held_out is float64 \[3\]"),
        ("scores.held_out", lambda tensor: tensor.float(), r"held_out is float32"),
        ("scores.folds", lambda tensor: tensor + 1, "folds are not numbered from 0 without a gap"),
        ("scores.model.3.scores.patches.memory", lambda tensor: tensor[:, :2], "memory"),
        ("scores.held_out_families", lambda tensor: tensor[:, :2], r"held_out_families is float64 \[24, 2\]"),
        ("scores.groups", None, "it has no groups"),
    ],
)
def test_tensors_that_somebody_made_are_one_line_even_where_their_digest_is_right(copied, name, change, message):
    tensors = safetensors.torch.load((copied / "detector.safetensors").read_bytes())
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name]).contiguous()
    content = safetensors.torch.save(tensors)
    (copied / "detector.safetensors").write_bytes(content)
    files = json.loads((copied / "detector.json").read_text())["files"]
    rewrite(copied, files={**files, "detector.safetensors": sha256(content).hexdigest()})
    with pytest.raises(WeightsError, match=rf"detector\.safetensors: is damaged \(.*{message}") as caught:
        open_detector(copied)
    assert "\n" not in str(caught.value)


def test_another_backbone_and_one_that_is_gone_are_one_line_each(photos, tmp_path):
    save_photos(tmp_path / "photos", 9, seed=0)
    backbone = save_backbone(tmp_path / "eye", side=64)
    fit(tmp_path / "photos", out=tmp_path / "detector", backbone=backbone)
    save_backbone(tmp_path / "eye", side=64, seed=1)
    with pytest.raises(WeightsError, match=r"was fitted with other weights of eye than are found now; fit the detecto"):
        open_detector(tmp_path / "detector")
    shutil.rmtree(tmp_path / "eye")
    with pytest.raises(WeightsError, match="no vision model in") as caught:
        open_detector(tmp_path / "detector")
    assert "\n" not in str(caught.value)


def test_a_stored_name_is_never_looked_for_on_the_hub(copied, monkeypatch):
    monkeypatch.setattr(
        backbone_module, "load_transformers_backbone", lambda name: pytest.fail(f"asked the Hub for {name}")
    )
    rewrite(copied, backbone="evil/tracker")
    with pytest.raises(WeightsError, match=r"evil/tracker is not on this machine, and is not downloaded automatically"):
        open_detector(copied)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_an_older_detector_is_refused_with_the_line_that_fits_it_anew(tmp_path, number):
    kind = StoredKind(newest=number, digest_from=3, cure="")
    facts = {"false_alarm_rate": 0.1, "only_classes": ["good", "new tin"], "model": "runs/tins", "score": "knn"}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "detector.json").write_text(json.dumps(kind.with_digest(facts)))
    line = (
        f"vae-ldm novelty fit PHOTOS --out {tmp_path}/old --false-alarm-rate 0.1 --only-class good "
        "--only-class 'new tin'"
    )
    with pytest.raises(WeightsError) as caught:
        open_detector(tmp_path / "old")
    assert str(caught.value).endswith(f"whose scores are no longer used; fit it anew: {line}")

    desk = tmp_path / "desk"
    shutil.copytree(tmp_path / "old", desk / "novelty")
    (desk / "index").mkdir()
    (desk / "index" / "index.json").touch()
    with pytest.raises(
        WeightsError, match=r"vae-ldm desk \S+desk PHOTOS --model runs/tins --false-alarm-rate 0\.1 --o"
    ):
        open_detector(desk / "novelty")
    ended = CliRunner().invoke(app, ["novelty", "score", str(tmp_path), str(tmp_path / "old")])
    assert (ended.exit_code, ended.output.count("error: ")) == (2, 1)


def test_fitting_again_replaces_a_detector_whole_and_a_failure_leaves_it(fitted, tmp_path, monkeypatch):
    detector = fitted()
    before = {file: (detector / file).read_bytes() for file in FILES}

    def no_space_left(*_, **__):
        raise OSError(28, "No space")

    monkeypatch.setattr("vae_ldm.stored_json.write_whole", no_space_left)
    with pytest.raises(OSError, match="No space"):
        fitted(false_alarm_rate=0.2)
    assert {file: (detector / file).read_bytes() for file in FILES} == before
    monkeypatch.undo()
    fitted(false_alarm_rate=0.2)
    assert json.loads((detector / "detector.json").read_text())["false_alarm_rate"] == 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["detector"]
    assert sorted(path.name for path in detector.iterdir()) == FILES


def test_a_detector_whose_swap_was_killed_is_put_in_its_place(copied, tmp_path):
    """Killed with the old one aside: opening finishes the swap."""
    copied.rename(tmp_path / ".copied.vae_ldm-new")
    (tmp_path / ".copied.vae_ldm-old").mkdir()
    (tmp_path / ".copied.vae_ldm-old" / "detector.safetensors").touch()
    open_detector(copied)
    assert sorted(path.name for path in copied.iterdir()) == FILES
    assert not list(tmp_path.glob(".copied*"))


def test_a_detector_on_a_full_disk_is_none_at_all(detector, small_disk):
    disk = small_disk(300)
    with pytest.raises(OSError, match="No space left"):
        save_detector(open_detector(detector), open_photos(detector), disk / "detector")
    assert list(disk.iterdir()) == []


def test_a_detector_saved_anew_is_the_same_bit_for_bit(detector, tmp_path):
    save_detector(open_detector(detector), open_photos(detector), tmp_path / "again")
    assert all((detector / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in FILES)
    assert torch.equal(open_photos(detector).groups, open_detector(detector).scores.groups)
