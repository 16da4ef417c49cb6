"""A desk of past photos: how it is made, and what it says of photos that it holds."""

import re
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.claims import put_before
from tests.support.tin_photos import save_photos
from vae_ldm.cli import app
from vae_ldm.desk.claim.claim import build_desk
from vae_ldm.errors import DataError, ManyUnreadableError, WeightsError


def test_a_photo_of_the_desk_is_found_again(photos, desk, tmp_path, capsys):
    _, page = put_before(photos / "past" / "bent" / "003.png", desk, tmp_path / "claim.html", num_similar=2)
    assert "<strong>This very photo is here already</strong>" in page
    held = photos / "past" / "bent" / "003.png"
    told = (
        f"The index holds it, byte for byte: {held}. The detector calls it seen. "
        "The detector was fitted on this photo; it is judged without it."
    )
    assert told in page
    assert page.count('alt="Similar photo ') == 2
    assert '<span title="' in page
    assert f'<span title="{held}">' not in page
    assert "the most similar of the 19 other photos" in page
    assert "Of the 2 most similar other photos, " in page
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        "This very photo is here already.",
        f"The index holds it, byte for byte: {held}.",
        "The detector calls it seen.",
    ]
    assert printed[3] == "The detector was fitted on this photo; it is judged without it."
    assert re.match(
        r"Its p-value is [\d.]+: (about \d+|none) of the 20 usual photos of the desk, each judged", printed[4]
    )
    assert printed[5] == "This desk is set to call 5 of 100 usual photos new."
    assert printed[-4].startswith("Of the 2 most similar other photos, ")


def test_a_photo_that_is_held_and_novel_is_told_as_both_one_fact_a_line(photos, build, tmp_path, capsys):
    past = shutil.copytree(photos / "past", tmp_path / "past")
    save_photos(past / "scratched", 1, seed=2, blemish=(26, 38))
    desk = build(past, only_classes=["good"], false_alarm_rate=0.1)
    capsys.readouterr()
    scratched = past / "scratched" / "000.png"
    verdict, page = put_before(scratched, desk, tmp_path / "claim.html")
    assert verdict.novel
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        "This very photo is here already.",
        f"The index holds it, byte for byte: {scratched}.",
        "The detector calls it novel.",
    ]
    assert re.match(r"Its p-value is 0\.\d+: none of the 12 usual photos .* as this one\.$", printed[3])
    assert re.match(r"This desk is set to call 10 of 100 usual photos new\.$", printed[4])
    assert re.match(
        r"With 12 usual photos the true number of .* lies between .* of 100 \(95 % confidence\)\.$", printed[5]
    )
    assert printed[6] == "Usual photos are those of good."
    assert "The detector calls it novel." in page


def test_copies_of_a_photo_are_told_and_a_photo_that_was_saved_anew_is_the_most_similar(
    photos, build, tmp_path, capsys
):
    past = shutil.copytree(photos / "past", tmp_path / "past")
    original = past / "bent" / "003.png"
    for name in ("copy.png", "zz.png"):
        shutil.copy(original, past / "good" / name)
    Image.open(original).save(past / "good" / "saved-anew.bmp")
    build(past, false_alarm_rate=0.1)
    capsys.readouterr()
    new = shutil.copy(original, tmp_path / "new.png")
    _, page = put_before(new, tmp_path / "desk", tmp_path / "claim.html", num_similar=3)
    printed = capsys.readouterr().out.splitlines()
    held = {str(path) for path in (original, past / "good" / "copy.png", past / "good" / "zz.png")}
    told = re.match(r"The index holds it, byte for byte: (.*)\.$", printed[1])
    assert set(told.group(1).split(", ")) == held
    shown = re.findall(r'<span title="([^"]+)">', page)
    assert len(shown) == 3
    assert shown[0].endswith("saved-anew.bmp")
    assert not held & set(shown)
    assert "the most similar of the 20 other photos" in page
    assert str(new) in page


def test_a_desk_of_photos_of_which_some_cannot_be_read_is_whole(photos, build, tmp_path, capfd):
    past = shutil.copytree(photos / "past", tmp_path / "past")
    (past / "good" / "cut.png").write_bytes(b"no picture")
    with pytest.raises(ManyUnreadableError, match=r"^1 of .* the others are in the index$"):
        build(past)
    assert capfd.readouterr().err.count("left out good/cut.png: ") == 1  # by index and detector together
    put_before(photos / "new" / "good" / "000.png", tmp_path / "desk", tmp_path / "claim.html")


@pytest.mark.parametrize("verb", ["index build i PAST", "desk d PAST", "archive add a PAST", "claim"])
def test_every_verb_says_once_that_the_model_hardly_knows_the_photos(
    photos, trained_run, build, tiny_backbone, tmp_path, monkeypatch, verb
):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(trained_run.path, tmp_path / "run")
    measured = '{"measurements": [{"name": "psnr", "value": %s}]}'
    said = {}
    for usual in (1.0, 90.0):
        (run / "metrics.json").write_text(measured % usual)
        if verb == "claim":
            build(photos / "past", model=str(run))
            words = ["claim", str(photos / "new" / "good" / "000.png"), "--desk", "desk", "--num-variations", "0"]
        else:
            words = [word.replace("PAST", str(photos / "past")) for word in verb.split()]
            words += ["--model", str(run), *(["--features", "latents"] if "archive" not in verb else [])]
            words += ["--backbone", tiny_backbone] if "desk" in verb else []
        ended = CliRunner().invoke(app, words)
        assert ended.exit_code == 0, ended.output
        said[usual] = " ".join(ended.output.split())
    assert "know such photos" not in said[1.0]
    assert said[90.0].count("own validation photos at 90.0 dB; it does not know such photos well") == 1


def test_a_desk_that_cannot_be_made_leaves_no_folder(photos, tmp_path):
    with pytest.raises(WeightsError):
        build_desk(tmp_path / "desk", photos / "past", model=str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"too few photos: 8 usual photos are needed .* there are 3; "):
        build_desk(tmp_path / "desk", photos / "new", model=str(tmp_path / "gone"))
    assert not (tmp_path / "desk").exists()


def test_the_verbs(photos, trained_run, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(trained_run.path), "--features", "latents", "--backbone", tiny_backbone]
    made = CliRunner().invoke(app, ["desk", "tins", str(photos / "past"), *options])
    assert made.exit_code == 0, made.output
    monkeypatch.setenv("HOME", str(photos))
    photo = "~/new/scratched"  # a folder that holds one
    said = CliRunner().invoke(app, ["claim", photo, "--desk", "tins", "--num-variations", "0"])
    assert said.exit_code == 0, said.output
    assert "No variations were asked for." in (tmp_path / "claim.html").read_text()
    wrong = CliRunner().invoke(app, ["claim", photo, "--desk", "tin"])
    assert wrong.exit_code == 2
    assert "tin: no such folder, so no desk" in wrong.output


def test_a_photo_whose_file_is_gone_is_still_named(photos, build, tmp_path):
    shutil.copytree(photos / "past", tmp_path / "past")
    build(tmp_path / "past")
    shutil.rmtree(tmp_path / "past")
    _, page = put_before(photos / "new" / "good" / "000.png", tmp_path / "desk", tmp_path / "claim.html")
    assert page.count("The file is gone.") == 5


def test_a_caption_cannot_write_into_the_page(photos, build, tmp_path):
    shutil.copytree(photos / "past", tmp_path / "past")
    names = sorted(file.relative_to(tmp_path / "past").as_posix() for file in (tmp_path / "past").rglob("*.png"))
    rows = [f'{{"file_name": "{name}", "caption": "<script>alert(1)</script>"}}' for name in names]
    (tmp_path / "past" / "metadata.jsonl").write_text("\n".join(rows))
    build(tmp_path / "past")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    _, page = put_before(tmp_path / "white.png", tmp_path / "desk", tmp_path / "claim.html")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
