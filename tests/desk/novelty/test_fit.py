"""`novelty fit`: which photos a detector is fitted on, what is said of it, and what happens where it cannot be."""

import os
import shutil

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.support.odd_photos import png_header
from tests.support.tin_photos import save_photos
from tests.support.tiny_backbone import save_backbone
from vae_ldm.cli import app
from vae_ldm.desk.novelty import looking
from vae_ldm.desk.novelty.detector_folder import open_detector, open_photos, reference_names
from vae_ldm.desk.novelty.fit import fit
from vae_ldm.desk.novelty.reference_photos import check_photos
from vae_ldm.desk.novelty.score import score
from vae_ldm.errors import DataError, ManyUnreadableError, VaeLdmError, WeightsError


def test_what_was_fitted_is_said_and_stored(fitted, tiny_backbone, tmp_path, capfd):
    facts = open_detector(fitted(false_alarm_rate=0.1)).facts
    assert (facts.num_reference, facts.num_calibration, facts.num_left_out, facts.false_alarm_rate) == (24, 24, 0, 0.1)
    assert (facts.backbone, facts.features_name) == (tiny_backbone, "tiny")
    assert (facts.only_classes, facts.known_classes, facts.series) == ([], [], None)
    printed = capfd.readouterr()
    assert "tiny: 24 usual photos" in printed.err
    assert "with 24 different usual photos the true rate lies between " in printed.err
    assert printed.out.splitlines() == [str(tmp_path / "detector")]


def test_few_photos_are_fitted_on_and_the_table_has_scores_without_p_values(few, tmp_path, capfd, read_table):
    """Of twelve photos a p-value is 1/13 at least, so that nothing can be called novel at 5 %."""
    save_photos(tmp_path / "photos", 12, seed=0)
    save_photos(tmp_path / "new", 3, seed=2, blemish=(26, 38))
    detector = few(tmp_path / "photos")
    said = " ".join(capfd.readouterr().err.split())
    assert "12 usual photos are too few to call any photo novel at a false-alarm rate of 0.05, which takes 19" in said
    assert "at --false-alarm-rate 0.077 or more they get both" in said

    verdicts = score(tmp_path / "new", detector, out=tmp_path / "scores.csv")
    assert {(verdict.novel, verdict.p_value) for verdict in verdicts} == {(None, None)}
    rows = read_table(tmp_path / "scores.csv")
    assert {(row["verdict"], row["p_value"]) for row in rows} == {("undecided", "")}
    assert all(float(row["score"]) > 1 for row in rows)
    said = " ".join(capfd.readouterr().err.split())
    assert "with 12 different usual photos no photo can be called novel at a false-alarm rate of 0.05" in said
    assert "the table has scores and no p-values; name --false-alarm-rate 0.077 or more" in said

    verdicts = score(tmp_path / "new", detector, out=tmp_path / "judged.csv", false_alarm_rate=0.2)
    assert {(verdict.novel, verdict.p_value) for verdict in verdicts} == {(True, 1 / 13)}
    assert {row["verdict"] for row in read_table(tmp_path / "judged.csv")} == {"novel"}


def test_fitted_again_it_looks_at_nothing_and_at_other_photos_it_does(fitted, few, tmp_path, capfd, monkeypatch):
    seen = []
    look = looking.look
    monkeypatch.setattr(
        "vae_ldm.desk.novelty.looking.look", lambda *arguments: seen.append(arguments[2]) or look(*arguments)
    )
    fitted()
    assert not seen
    assert "has seen these 24 photos before; they are not looked at again" in " ".join(capfd.readouterr().err.split())

    save_photos(tmp_path / "photos", 12, seed=0)
    few(tmp_path / "photos")
    few(tmp_path / "photos")
    assert len(seen) == 1
    (tmp_path / "photos" / "011.png").unlink()
    few(tmp_path / "photos")  # one fewer
    few(tmp_path / "photos", series=r"(\d)\.")
    few(tmp_path / "photos", series=r"(\d)\.", backbone=save_backbone(tmp_path / "other", seed=1))
    assert [len(records) for records in seen] == [12, 11, 11, 11]


def test_a_detector_that_takes_the_place_of_another_says_so(fitted, capfd):
    out = fitted(false_alarm_rate=0.1)
    capfd.readouterr()
    fitted()
    said = " ".join(capfd.readouterr().err.split())
    assert f"{out}: takes the place of a detector of 24 photos, at a false-alarm rate of 0.1" in said


def test_only_the_named_classes_are_usual_and_the_others_are_known(few, tmp_path, read_table, capfd):
    """The sets of possible classes hold the right one; a photo like none of them is said to be like none."""
    save_photos(tmp_path / "photos" / "good", 24, seed=0)
    save_photos(tmp_path / "photos" / "bent", 18, seed=3, blemish=(20, 20))
    save_photos(tmp_path / "photos" / "scratched", 18, seed=4, blemish=(26, 38))
    detector = few(tmp_path / "photos", only_classes=["good"], false_alarm_rate=0.1)
    facts = open_detector(detector).facts
    assert (facts.num_reference, facts.only_classes) == (24, ["good"])
    assert facts.known_classes == ["bent", "scratched"]
    assert "known classes: bent, scratched" in capfd.readouterr().err

    save_photos(tmp_path / "new" / "good", 4, seed=5)
    save_photos(tmp_path / "new" / "scratched", 4, seed=6, blemish=(26, 38))
    save_photos(tmp_path / "new" / "bent", 4, seed=6, blemish=(20, 20))
    Image.new("RGB", (64, 64), "yellow").save(tmp_path / "new" / "yellow.png")
    verdicts = {verdict.record.id: verdict for verdict in score(tmp_path / "new", detector, out=tmp_path / "s.csv")}
    for name, verdict in verdicts.items():
        if name == "yellow.png":
            assert verdict.classes.possible == []
            assert verdict.classes.most_like in facts.known_classes
        elif not name.startswith("good"):
            assert set(verdict.classes.p_values) == {"bent", "scratched"}
        elif not verdict.novel:
            assert verdict.classes is None  # a usual photo is of neither
    damaged = [verdict for name, verdict in verdicts.items() if name.startswith(("bent", "scratched"))]
    assert sum(each.record.label == each.classes.most_like for each in damaged) >= 7
    assert sum(each.record.label in each.classes.possible for each in damaged) >= 6
    rows = {row["id"]: row for row in read_table(tmp_path / "s.csv")}
    assert rows["yellow.png"]["possible_classes"] == "none of them"
    assert {row["possible_classes"] for row in rows.values()} <= {
        "", "none of them", "bent", "scratched", "bent|scratched", "scratched|bent",
    }  # fmt: skip
    assert "usual photos are those of good" in " ".join(capfd.readouterr().err.split())


def test_classes_of_usual_photos_are_known_too_and_their_photos_are_looked_at_once(few, tmp_path, monkeypatch):
    seen = []
    look = looking.look
    monkeypatch.setattr(
        "vae_ldm.desk.novelty.looking.look", lambda *arguments: seen.append(arguments[2]) or look(*arguments)
    )
    monkeypatch.setattr("vae_ldm.desk.novelty.fit.look", looking.look)
    save_photos(tmp_path / "photos" / "tin", 8, seed=0)
    save_photos(tmp_path / "photos" / "cross", 8, seed=3, blemish=(26, 38))
    detector = open_detector(few(tmp_path / "photos"))
    assert (detector.facts.num_reference, detector.facts.known_classes) == (16, ["cross", "tin"])
    assert len(seen) == 1
    save_photos(tmp_path / "new", 3, seed=4, blemish=(26, 38))
    for verdict in detector.judge(tmp_path / "new", false_alarm_rate=0.1):
        assert verdict.classes.most_like == "cross"
        assert not verdict.novel


def test_photos_of_one_series_and_near_duplicates_weigh_as_one(few, tmp_path):
    save_photos(tmp_path / "photos", 20, seed=0)
    for number in (0, 3):
        photo = Image.open(tmp_path / "photos" / f"{number:03d}.png")
        photo.save(tmp_path / "photos" / f"{number:03d}-again.webp", quality=90)
    detector = open_detector(few(tmp_path / "photos"))
    assert (detector.facts.num_reference, detector.facts.num_calibration) == (22, 20)
    names, groups = reference_names(tmp_path / "few").ids, detector.scores.groups.tolist()
    by_name = dict(zip(names, groups, strict=True))
    assert by_name["000.png"] == by_name["000-again.webp"] != by_name["001.png"]
    assert all(len(detector.scores.folds[detector.scores.groups == group].unique()) == 1 for group in groups)

    facts = open_detector(few(tmp_path / "photos", series=r"(\d)[.-]")).facts
    assert (facts.series, facts.num_calibration) == (r"(\d)[.-]", 10)


def test_too_few_different_photos_are_said_before_damage_is_made(tmp_path, tiny_backbone, monkeypatch):
    monkeypatch.setattr(looking, "_look_at_copies", lambda *_: pytest.fail("made damage"))
    save_photos(tmp_path / "photos", 5, seed=0)
    for number in range(9):
        shutil.copy(tmp_path / "photos" / "000.png", tmp_path / "photos" / f"copy-{number}.png")
    with pytest.raises(DataError, match=r"^too few photos: of 14 only 5 are different \(near-duplicates and photos"):
        fit(tmp_path / "photos", out=tmp_path / "detector", backbone=tiny_backbone)
    assert not (tmp_path / "detector").exists()


def test_photos_that_cannot_be_read_are_told_and_counted(few, tmp_path, capfd):
    save_photos(tmp_path / "photos", 12, seed=0)
    whole = (tmp_path / "photos" / "000.png").read_bytes()
    (tmp_path / "photos" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "bomb.png").write_bytes(png_header(20_000, 20_000))
    with pytest.raises(ManyUnreadableError, match=r"^2 of 14 photos cannot be read; the detector in .*few is of the"):
        few(tmp_path / "photos")
    said = capfd.readouterr().err
    assert said.count("left out cut.png: truncated") == said.count("left out bomb.png: ") == 1
    assert "more than max_pixels" in said
    assert open_detector(tmp_path / "few").facts.num_reference == 12


@pytest.mark.parametrize("good", [1, 7])
@pytest.mark.parametrize("verb", ["desk d PHOTOS --model RUN", "novelty fit PHOTOS --out d"])
def test_too_few_photos_are_told_with_those_that_cannot_be_read(trained_run, tmp_path, monkeypatch, verb, good):
    monkeypatch.chdir(tmp_path)
    save_photos(tmp_path / "mixed", good, seed=0)
    whole = (tmp_path / "mixed" / "000.png").read_bytes()
    (tmp_path / "mixed" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "mixed" / "empty.jpg").touch()
    words = verb.replace("PHOTOS", "mixed").replace("RUN", str(trained_run.path)).split()
    ended = CliRunner().invoke(app, words)
    said = ended.output.splitlines()
    assert ended.exit_code == 2
    assert "left out empty.jpg: an empty file" in said
    assert "left out cut.png: truncated: the end of the file is missing" in said
    needed = "too few photos: 8 usual photos are needed to compare with"
    assert f"error: {needed}, and there are {good + 2}, of which 2 cannot be read; give more photos" in said[-1]
    assert len(said) == 3
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"false_alarm_rate": 0}, VaeLdmError, "between 0 and 1, not 0"),
        ({"false_alarm_rate": 1.5}, VaeLdmError, r"between 0 and 1, not 1\.5"),
        ({"only_classes": ["god"]}, DataError, "has no photos of a class god; did you mean good"),
        ({"series": "(unclosed"}, DataError, "is no regular expression"),
        ({"series": "^IMG"}, DataError, "matches none of 24 names, such as "),
        ({"backbone": "/absent"}, WeightsError, "no vision model in /absent"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(photos, tiny_backbone, tmp_path, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        fit(photos / "train", **{"out": tmp_path / "detector", "backbone": tiny_backbone, **settings})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "detector").exists()


def test_a_folder_of_other_things_is_not_replaced(photos, tiny_backbone):
    with pytest.raises(DataError, match="is no detector and not empty"):
        fit(photos / "train", out=photos, backbone=tiny_backbone)


def test_names_that_are_no_utf_8_or_very_long_are_fitted_on_and_judged(few, tmp_path, read_table):
    save_photos(tmp_path / "photos", 12, seed=0)
    names = [os.fsdecode(b"caf\xe9.png"), "n" * 251 + ".png", "n" * 250 + "m.png", " # space .png"]
    for number, name in enumerate(names):
        (tmp_path / "photos" / f"{number:03d}.png").rename(tmp_path / "photos" / name)
    detector = few(tmp_path / "photos")
    assert r"caf\xe9.png" in reference_names(detector).ids
    verdicts = score(tmp_path / "photos", detector, out=tmp_path / "scores.csv", heat_maps=tmp_path / "heat")
    assert len(verdicts) == len(read_table(tmp_path / "scores.csv")) == 12
    assert len(list((tmp_path / "heat").rglob("*.png"))) == 12

    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# odd ones\r\n\r\ncaf\xe9.png\r\n # space .png\n")
    detector = few(tmp_path / "photos", leave_out=tmp_path / "list.txt")
    left_out = open_photos(detector).names
    assert {name for name, is_out in zip(left_out.ids, left_out.left_out, strict=True) if is_out} == {
        r"caf\xe9.png",
        " # space .png",
    }


@pytest.mark.slow
def test_the_default_backbone_finds_a_scratch(photos, tmp_path):
    save_photos(tmp_path / "few", 12, seed=0)
    fit(tmp_path / "few", out=tmp_path / "detector", false_alarm_rate=0.1)
    detector = open_detector(tmp_path / "detector")
    assert (detector.facts.backbone, detector.facts.features_name) == (None, "EffLite0")
    assert all(verdict.novel for verdict in detector.judge(photos / "validation" / "scratched"))
    good = detector.judge(photos / "validation" / "good")
    assert sum(verdict.novel for verdict in good) <= 4
    assert torch.equal(open_photos(tmp_path / "detector").groups, detector.scores.groups)


def test_photos_of_one_series_are_refused_before_any_is_looked_at(photos):
    with pytest.raises(DataError, match="too few photos: the 24 here are of 1 series, which count as one photo each"):
        check_photos(photos / "train", false_alarm_rate=0.05, series="^(good)/")
