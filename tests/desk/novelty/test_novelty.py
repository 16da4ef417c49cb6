"""Detectors from photos to verdicts, with a real autoencoder and a real backbone."""

import csv
import hashlib
import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from tests.processes import two_processes
from tests.run.start_points import SD, save_autoencoder
from tests.support.tin_photos import save_photos
from vae_ldm import files, weights
from vae_ldm.cli import app
from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk.novelty.detector import open_detector
from vae_ldm.desk.novelty.novelty import fit, score
from vae_ldm.desk.novelty.reference_photos import reference_and_calibration
from vae_ldm.errors import DataError, ManyUnreadableError, VaeLdmError, WeightsError
from vae_ldm.latent_space.novelty import SCORE_NAMES
from vae_ldm.models.vision_features import EfficientNetLiteFeatures

PHOTO_SIZE = (64, 64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    save_photos(folder / "train" / "good", 60, seed=0)
    save_photos(folder / "validation" / "good", 12, seed=1)
    save_photos(folder / "validation" / "scratched", 6, seed=2, blemish=(26, 38))
    return folder


@pytest.fixture(scope="module")
def detector(photos, trained_once, tmp_path_factory):
    """Of both features."""
    out = tmp_path_factory.mktemp("detectors") / "both"
    fit(photos / "train", model=str(trained_once.path), out=out)
    return out


@pytest.fixture
def by_latents(photos, trained_run):
    """Fits a detector on the training photos by latents alone, which takes a moment."""

    def fit_by_latents(out, **settings):
        fit(photos / "train", **{"model": str(trained_run.path), "out": out, "features": "latents", **settings})
        return out

    return fit_by_latents


def read_table(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_scratched_photos_are_novel_and_good_ones_are_not(detector, photos, tmp_path, capfd):
    verdicts = score(photos / "validation", detector, out=tmp_path / "scores.csv", heat_maps=tmp_path / "heat")
    scratched = [verdict for verdict in verdicts if verdict.record.label == "scratched"]
    good = [verdict for verdict in verdicts if verdict.record.label == "good"]
    assert all(verdict.novel for verdict in scratched)
    assert sum(verdict.novel for verdict in good) <= 3
    assert {verdict.p_value for verdict in scratched} == {1 / 21}  # of 20 calibration photos

    table = read_table(tmp_path / "scores.csv")
    assert [row["id"] for row in table] == [record.id for record in photo_records(photos / "validation")]
    assert list(table[0]) == ["id", "verdict", "p_value", *SCORE_NAMES, "features"]
    for row, verdict in zip(table, verdicts, strict=True):
        assert row["verdict"] == ("novel" if verdict.novel else "seen")
        assert float(row["p_value"]) == pytest.approx(verdict.p_value, rel=1e-5)
        assert float(row["patch"]) == pytest.approx(verdict.scores["patch"], rel=1e-5)
        assert row["features"] == "latents + EffLite0"
    heat_maps = sorted(path.relative_to(tmp_path / "heat") for path in (tmp_path / "heat").rglob("*.*"))
    assert [str(path) for path in heat_maps] == [f"{row['id']}.png" for row in table]
    assert capfd.readouterr().out.splitlines() == [str(tmp_path / "scores.csv"), str(tmp_path / "heat")]


def test_the_heat_map_is_hottest_at_the_blemish(detector, photos):
    opened = open_detector(detector)
    for verdict in opened.judge(photos / "validation" / "scratched"):
        assert verdict.heat_map.shape == (192, 192, 3)
        red = verdict.heat_map[..., 0].astype(int) - verdict.heat_map[..., 2]
        smooth = torch.nn.functional.avg_pool2d(torch.from_numpy(red)[None, None].float(), 15, 1, 7)[0, 0]
        y, x = divmod(int(smooth.argmax()), 192)
        assert (y / 3, x / 3) == (pytest.approx(26, abs=9), pytest.approx(38, abs=9))


def test_a_detector_opened_again_judges_as_it_did_and_its_facts_can_be_read(detector, photos, trained_run, tmp_path):
    copied = shutil.copytree(detector, tmp_path / "copy")
    batch = next(open_detector(detector).observer.encoder.batches(photo_records(photos / "validation" / "scratched")))
    first = open_detector(detector).judge(batch, heat_maps=False)
    again = open_detector(copied, model=str(trained_run.path)).judge(batch, heat_maps=False)
    assert [(v.novel, v.p_value, v.scores) for v in first] == [(v.novel, v.p_value, v.scores) for v in again]
    assert first[0].heat_map is None
    facts = json.loads((detector / "detector.json").read_text())
    assert (facts["num_reference"], facts["num_calibration"], facts["false_alarm_rate"]) == (40, 20, 0.05)
    assert facts["features_name"] == "latents + EffLite0"


def test_only_the_named_classes_are_fitted_on_and_a_folder_may_calibrate(photos, trained_run, tmp_path):
    facts = fit(
        photos,
        model=str(trained_run.path),
        out=tmp_path / "detector",
        features="latents",
        score="knn",
        calibration=photos / "validation",
        only_classes=["good"],
        false_alarm_rate=0.1,
    )
    assert (facts.num_reference, facts.num_calibration, facts.score) == (72, 12, "knn")


def test_photos_that_cannot_be_read_are_told_and_have_a_line(by_latents, photos, tmp_path, capfd):
    mixed = shutil.copytree(photos / "train", tmp_path / "mixed")
    whole = (mixed / "good" / "000.png").read_bytes()
    (mixed / "good" / "cut.png").write_bytes(whole[: len(whole) // 2])
    # A header that promises 20,000 x 20,000 pixels; nothing more is ever read of it.
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    (mixed / "good" / "bomb.png").write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    detector = by_latents(tmp_path / "detector")
    with pytest.raises(ManyUnreadableError, match=r"^2 of 62 photos cannot be read; the others are judged in .*csv$"):
        score(mixed, detector, out=tmp_path / "scores.csv")
    rows = {row["id"]: row["verdict"] for row in read_table(tmp_path / "scores.csv")}
    assert len(rows) == 62
    assert (rows["good/cut.png"], rows["good/bomb.png"]) == ("unreadable", "unreadable")
    said = capfd.readouterr().err
    assert said.count("left out ") == 2
    assert "more than max_pixels" in said


def fit_in(folder, photos, model):
    fit(photos / "train", model=model, out=folder / "detector", features="latents")


def score_in(folder, photos):
    score(photos / "validation", folder / "detector", out=folder / "scores.csv", heat_maps=folder / "heat")


@pytest.mark.slow
def test_two_processes_find_what_one_finds(photos, trained_run, tmp_path):
    model = str(trained_run.path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    fit_in(tmp_path / "one", photos, model)
    score_in(tmp_path / "one", photos)
    with two_processes() as processes:
        processes(fit_in, folder=tmp_path / "two", photos=photos, model=model)
        processes(score_in, folder=tmp_path / "two", photos=photos)
    for file in ("detector/detector.json", "detector/detector.safetensors", "scores.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    one, two = (sorted(path.name for path in (tmp_path / name / "heat").rglob("*.png")) for name in ("one", "two"))
    assert one == two


def test_a_detector_that_takes_the_place_of_another_says_so(by_latents, tmp_path, capfd):
    out = by_latents(tmp_path / "detector", only_classes=["good"], false_alarm_rate=0.1)
    assert "takes the place" not in capfd.readouterr().err
    by_latents(out)
    said = capfd.readouterr().err
    assert f"{out}: takes the place of a detector of 60 photos of good, at a false-alarm rate of 0.1 with the" in said


@pytest.mark.parametrize("good", [1, 57])
@pytest.mark.parametrize("verb", ["desk d PHOTOS --model RUN", "novelty fit PHOTOS --model RUN --out d"])
def test_too_few_photos_are_told_with_those_that_cannot_be_read(trained_run, tmp_path, monkeypatch, verb, good):
    mixed = tmp_path / "mixed"
    save_photos(mixed, good, seed=0)
    (mixed / "empty.jpg").touch()
    whole = (mixed / "000.png").read_bytes()
    (mixed / "cut.png").write_bytes(whole[: len(whole) // 2])
    if good == 57:  # enough by their number, but two of the twenty that are held out are empty as well
        held_out = [record for record in reference_and_calibration(mixed, 1 / 3, ())[1] if record.id[0] == "0"]
        for record in held_out[:2]:
            record.picture.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    words = verb.replace("PHOTOS", "mixed").replace("RUN", str(trained_run.path)).split()
    ended = CliRunner().invoke(app, words)
    said = ended.output.splitlines()
    assert ended.exit_code == 2
    assert "left out empty.jpg: an empty file" in said
    assert "left out cut.png: truncated: the end of the file is missing" in said
    there_are = {1: "there are 3, of which 2 cannot be read", 57: "there are 59, of which 4 cannot be read"}[good]
    assert f"error: too few photos: at least 57 photos are needed, and {there_are}: 10 to compare with" in said[-1]
    assert len(said) == {1: 3, 57: 5}[good]
    assert not (tmp_path / "d").exists()


def test_too_few_photos_for_the_rate_are_said_before_a_model_is_opened(photos, tmp_path):
    cases = [
        (
            {"false_alarm_rate": 0.01},
            DataError,
            r"at least 297 photos .* there are 60: .*40 here.* rate of 0\.01, 99 .*20 here.* of 0\.048 or more",
        ),
        (
            {"false_alarm_rate": 0.01, "calibration": photos / "validation"},
            DataError,
            r"too few photos: 10 to compare with \(60 here\) and, .*, 99 to calibrate on \(18 here\)",
        ),
        (
            {"false_alarm_rate": 0.5, "calibration": 0.95},
            DataError,
            r"at least 200 photos are needed, and there are 60: 10 to compare with \(3 here\)",
        ),
        ({"false_alarm_rate": 0}, VaeLdmError, "between 0 and 1"),
        ({"calibration": 1.5}, VaeLdmError, "between 0 and 1, not 1.5"),
        ({"only_classes": ["god"]}, DataError, "did you mean good"),
        ({"out": photos}, DataError, "is no detector and not empty"),
    ]
    for settings, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            fit(photos / "train", **{"model": str(tmp_path / "none"), "out": tmp_path / "detector", **settings})
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "detector").exists()


def test_another_model_a_moved_one_and_damage_are_one_line_each(by_latents, photos, trained_run, tmp_path):
    model = shutil.copytree(trained_run.path, tmp_path / "run")
    detector = by_latents(tmp_path / "detector", model=str(model))
    save_autoencoder(tmp_path / "other", **SD)
    with pytest.raises(WeightsError, match=r"is not the model that .*detector was fitted with"):
        open_detector(detector, model=str(tmp_path / "other"))
    model.rename(tmp_path / "moved")
    with pytest.raises(WeightsError, match="is gone; say with --model"):
        open_detector(detector)
    open_detector(detector, model=str(tmp_path / "moved"))

    for file, change, message in (
        ("detector.safetensors", lambda content: content[:-1] + b"\x07", "digest is another"),
        ("detector.safetensors", lambda content: content[:100], "digest is another"),
        ("detector.json", lambda content: content[:100], "it is no JSON"),
        ("detector.json", lambda content: content.replace(b'"format": 4', b'"format": 9'), "a newer vae_ldm .format 9"),
        ("detector.json", lambda content: content.replace(b'"format": 4', b'"format": 1'), "its digest is another"),
        (
            "detector.json",
            lambda content: content.replace(b'"threshold": ', b'"threshold": -'),
            "its digest is another",
        ),
        ("detector.json", lambda content: content.replace(b'"score"', b'"scor"'), "its digest is another"),
    ):
        damaged = shutil.copytree(detector, tmp_path / "damaged", dirs_exist_ok=True)
        (damaged / file).write_bytes(change((damaged / file).read_bytes()))
        with pytest.raises(WeightsError, match=message) as caught:
            open_detector(damaged, model=str(tmp_path / "moved"))
        assert "\n" not in str(caught.value)
    for nothing in (photos, tmp_path / "absent", photos / "train" / "good" / "000.png"):
        with pytest.raises(WeightsError, match="is no detector"):
            open_detector(nothing)


def test_fitting_again_replaces_a_detector_whole_and_a_failure_leaves_it(by_latents, tmp_path, monkeypatch):
    detector = by_latents(tmp_path / "detector", score="knn")
    before = (detector / "detector.json").read_bytes()

    def no_space_left(*_, **__):
        raise OSError(28, "No space")

    monkeypatch.setattr("vae_ldm.stored_json.write_whole", no_space_left)
    with pytest.raises(OSError, match="No space"):
        by_latents(tmp_path / "detector", score="patch")
    assert (detector / "detector.json").read_bytes() == before
    monkeypatch.undo()
    by_latents(tmp_path / "detector", score="patch")
    assert json.loads((detector / "detector.json").read_text())["score"] == "patch"
    assert sorted(path.name for path in tmp_path.glob("detector*")) == ["detector"]


def test_a_detector_whose_swap_was_killed_is_put_in_its_place(by_latents, tmp_path):
    """Killed with the old one aside: opening finishes the swap, and so does fitting again."""
    detector = by_latents(tmp_path / "detector", score="knn")
    for again in (open_detector, lambda folder: by_latents(folder, score="patch")):
        detector.rename(tmp_path / ".detector.vae_ldm-new")
        (tmp_path / ".detector.vae_ldm-old").mkdir()
        (tmp_path / ".detector.vae_ldm-old" / "detector.safetensors").touch()
        again(detector)
        assert sorted(path.name for path in detector.iterdir()) == ["detector.json", "detector.safetensors"]
        assert not list(tmp_path.glob(".detector*"))


def test_a_full_disk_is_one_line_and_nothing_is_lost(by_latents, photos, small_disk, tmp_path):
    detector = by_latents(tmp_path / "detector")
    disk = small_disk(8)
    arguments = ["novelty", "score", str(photos), str(detector), "--out", str(disk / "scores.csv")]
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 1, result.output
    assert "No space left" in result.output.splitlines()[-1]
    assert list(disk.iterdir()) == []


def test_the_command_line(photos, trained_run, tmp_path):
    runner = CliRunner()
    detector = tmp_path / "detector"
    arguments = ["novelty", "fit", str(photos), "--model", str(trained_run.path), "--out", str(detector)]
    arguments += ["--features", "latents", "--only-class", "good", "--calibration", "0.4"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == str(detector)
    assert "with 29 calibration photos the true rate lies between " in result.output
    table = tmp_path / "scores.csv"
    result = runner.invoke(app, ["novelty", "score", str(photos), str(detector), "--out", str(table)])
    assert result.exit_code == 0, result.output
    assert "photos are novel by combination of latents, at a false-alarm rate of 0.05" in result.output
    assert "the detector knows photos of good only" in result.output
    assert len(read_table(table)) == 78

    for wrong, message in (
        (["fit", str(photos), "--model", "x/y/z", "--out", str(detector)], "no such folder"),
        (
            ["fit", str(photos), "--model", str(trained_run.path), "--out", "d", "--calibration", "nowhere"],
            "neither a share",
        ),
        (["score", str(photos / "trian"), str(detector)], "did you mean"),
        (["score", str(photos), str(photos)], "is no detector"),
        (["score", str(photos), str(detector), "--out", "no/such/table.csv"], "no/such: no such folder"),
    ):
        result = runner.invoke(app, ["novelty", *wrong])
        assert result.exit_code == 2, result.output
        errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]


def content_of_0_1_0(detector):
    """detector.json as version 0.1.0 would have written it."""
    stored = json.loads((detector / "detector.json").read_text())
    content = {name: value for name, value in stored.items() if name not in ("format", "written_by", "digest")}
    return {"format": 2, **content}


def test_a_detector_of_0_1_0_judges_as_it_did(by_latents, photos, tmp_path):
    detector = by_latents(tmp_path / "detector")
    records = photo_records(photos / "validation")
    before = open_detector(detector).judge(records)
    (detector / "detector.json").write_text(json.dumps(content_of_0_1_0(detector)))
    after = open_detector(detector).judge(records)
    assert [(v.novel, v.scores, v.max_heat) for v in before] == [(v.novel, v.scores, v.max_heat) for v in after]
    assert all(np.array_equal(one.heat_map, other.heat_map) for one, other in zip(before, after, strict=True))
    (detector / "detector.json").write_text(json.dumps({**content_of_0_1_0(detector), "format": 1}))
    with pytest.raises(WeightsError, match="is of format 1, which this version does not read; fit the detector again"):
        open_detector(detector)


@pytest.mark.parametrize("change", [
    {"threshold": "4"}, {"score": "smell"}, {"image_size": [64]}, {"patch_heat": None}, {"num_pixels": 1.5},
    {"residual_heat": {"usual": 1}}, {"only_classes": "good"}, {"model": None},
])  # fmt: skip
def test_facts_that_are_none_are_one_line_even_in_a_detector_without_a_digest(by_latents, tmp_path, change):
    detector = by_latents(tmp_path / "detector")
    (detector / "detector.json").write_text(json.dumps({**content_of_0_1_0(detector), **change}))
    with pytest.raises(WeightsError, match=r"detector\.json: is damaged .*; fit the detector again") as caught:
        open_detector(detector)
    assert "\n" not in str(caught.value)


def test_tensors_that_somebody_made_are_one_line_even_where_their_digest_is_right(by_latents, photos, tmp_path):
    detector = by_latents(tmp_path / "detector")
    whole = safetensors.torch.load((detector / "detector.safetensors").read_bytes())
    short = {"mean.latents": 3, "deviation.latents": 3, "references": (len(whole["references"]), 3)}
    short |= {"mahalanobis.mean": 3, "mahalanobis.whitener": (3, 3)}
    for changed, message in (
        ({"references": torch.zeros(3)}, r"detector\.safetensors: is damaged \(references is float32 \[3\], not"),
        ({"calibration": torch.zeros(20, 3, dtype=torch.float64)}, r"is damaged \(calibration is float64 \[20, 3\]"),
        ({"calibration": whole["calibration"].float()}, r"is damaged \(calibration is float32 \[20, 7\], not float64"),
        ({"combination.center": torch.zeros(2, dtype=torch.float64)}, r"is damaged \(combination.center is"),
        ({"memory.patches": whole["memory.patches"][:0]}, r"is damaged \(memory.patches is float32 \[0, "),
        ({"pixels.projection": whole["pixels.projection"].long()}, r"is damaged \(pixels.projection is int64"),
        ({name: torch.zeros(shape, dtype=whole[name].dtype) for name, shape in short.items()}, "belong together"),
    ):
        content = safetensors.torch.save({**whole, **changed})
        (detector / "detector.safetensors").write_bytes(content)
        facts = {**content_of_0_1_0(detector), "sha256": hashlib.sha256(content).hexdigest()}
        (detector / "detector.json").write_text(json.dumps(facts))
        with pytest.raises(VaeLdmError, match=message) as caught:
            open_detector(detector).judge(photo_records(photos / "validation")[:1])
        assert "\n" not in str(caught.value)


def test_a_stored_name_is_never_looked_for_on_the_hub(by_latents, trained_run, tmp_path, monkeypatch):
    detector = by_latents(tmp_path / "detector")
    asked = []
    monkeypatch.setattr(weights, "download", lambda name, **_: asked.append(name))
    content = {**content_of_0_1_0(detector), "model": "evil/tracker"}
    (detector / "detector.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"evil/tracker is no folder on this machine.*--model evil/tracker"):
        open_detector(detector)
    assert not asked
    open_detector(detector, model=str(trained_run.path))


def test_names_that_are_no_utf_8_or_very_long_are_fitted_on_judged_and_drawn(photos, trained_run, tmp_path):
    mixed = shutil.copytree(photos / "train", tmp_path / "mixed")
    names = [os.fsdecode(b"caf\xe9.png"), "n" * 251 + ".png", "n" * 250 + "m.png"]
    for number, name in enumerate(names):
        (mixed / "good" / f"{number:03d}.png").rename(mixed / "good" / name)
    fit(mixed, model=str(trained_run.path), out=tmp_path / "detector", features="latents")
    verdicts = score(mixed, tmp_path / "detector", out=tmp_path / "scores.csv", heat_maps=tmp_path / "heat")
    assert (
        len(verdicts) == len(read_table(tmp_path / "scores.csv")) == len(list((tmp_path / "heat").rglob("*.png"))) == 60
    )


def test_heat_reaches_one_in_as_many_usual_photos_as_the_rate_says(trained_run, tmp_path):
    save_photos(tmp_path / "photos" / "good", 120, seed=3)
    save_photos(tmp_path / "new" / "good", 150, seed=4)
    fit(
        tmp_path / "photos",
        model=str(trained_run.path),
        out=tmp_path / "detector",
        features="latents",
        false_alarm_rate=0.1,
        calibration=0.8,
    )
    judged = open_detector(tmp_path / "detector").judge(photo_records(tmp_path / "new"))
    assert np.mean([verdict.max_heat >= 1 for verdict in judged]) == pytest.approx(0.1, abs=0.06)


def test_a_detector_of_unfolded_features_judges_alike_by_folded_ones(photos, detector, monkeypatch):
    records = photo_records(photos / "validation")
    folded = open_detector(detector).judge(records)
    monkeypatch.setattr(EfficientNetLiteFeatures, "folded", lambda self: self)  # as version 0.1.0 looked at photos
    unfolded = open_detector(detector).judge(records)
    assert [(one.novel, one.p_value) for one in folded] == [(one.novel, one.p_value) for one in unfolded]
    for one, other in zip(folded, unfolded, strict=True):
        assert list(one.scores.values()) == pytest.approx(list(other.scores.values()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("at", ["new one ready", "old one aside"])
def test_a_detector_whose_replacement_was_killed_is_opened(by_latents, photos, tmp_path, at):
    detector = by_latents(tmp_path / "detector")
    new = tmp_path / f".detector.{files._NEW}"
    shutil.copytree(detector, new)
    if at == "old one aside":
        detector.rename(tmp_path / f".detector.{files._OLD}")
    result = CliRunner().invoke(
        app, ["novelty", "score", str(photos / "validation"), str(detector), "--out", str(tmp_path / "scores.csv")]
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.glob("*detector*") if path.is_dir()) == ["detector"]


def test_photos_that_the_detector_was_fitted_on_are_counted_and_others_are_not(photos, detector, tmp_path, capfd):
    for number, part in enumerate(("train", "validation")):
        verdicts = score(photos / part, detector, out=tmp_path / f"{number}.csv")
        said = capfd.readouterr().err
        if part == "train":  # a third of the 60 was held out to calibrate on
            assert sum(verdict.is_reference for verdict in verdicts) == 40
            line = "40 of 60 photos were among those that the detector was fitted on; their scores are too low to say "
            assert f"{line}anything" in said.splitlines()
        else:
            assert not any(verdict.is_reference for verdict in verdicts)
            assert "fitted on" not in said
