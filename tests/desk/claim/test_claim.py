"""A desk made of past photos, and a new one put before it: what is said, and the page."""

import base64
import functools
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from tests.run.start_points import SD, save_autoencoder
from tests.support.claims import put_before
from tests.support.tin_photos import save_photos
from vae_ldm import loading
from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk.claim import claim as claim_module
from vae_ldm.desk.claim.claim import STRENGTHS, _thumbnail, claim, open_desk
from vae_ldm.desk.claim.page import FAMILIES_IN_WORDS
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.desk.novelty.detector_folder import open_detector, open_photos, save_detector
from vae_ldm.errors import DataError, VaeLdmError, WeightsError
from vae_ldm.latent_space.novelty_scores.families import FAMILIES


def test_a_usual_photo_was_seen_before_and_a_scratched_one_was_not(photos, desk, tmp_path, capsys):
    usual, page = put_before(photos / "new" / "good" / "001.png", desk, tmp_path / "usual.html")
    assert not usual.novel
    assert "<strong>Looks like what was seen before</strong>" in page
    printed = capsys.readouterr().out
    assert printed.startswith("Looks like what was seen before.\nIts p-value is ")
    assert printed.rstrip().endswith("usual.html")

    scratched, page = put_before(photos / "new" / "scratched" / "000.png", desk, tmp_path / "scratched.html")
    assert scratched.novel
    assert scratched.p_value < usual.p_value
    assert "<strong>Not seen before</strong>" in page
    assert "<figcaption>Yellow to red marks the unusual places.</figcaption>" in page


def test_a_photo_that_is_novel_as_a_whole_shows_its_strangest_places_and_says_so(photos, desk, tmp_path):
    opened = open_detector(desk / "novelty")
    scores = replace(opened.scores, held_out_maxima=opened.scores.held_out_maxima + 1e6)
    save_detector(replace(opened, scores=scores), open_photos(desk / "novelty"), tmp_path / "novelty")
    shutil.copytree(desk / "index", tmp_path / "index")
    verdict, page = put_before(photos / "new" / "scratched" / "000.png", tmp_path, tmp_path / "claim.html")
    assert verdict.novel
    assert verdict.max_heat < 0.01
    assert "None of them is unusual enough by itself; the photo is as a whole." in page


def test_too_few_photos_for_the_rate_give_no_verdict_and_the_rate_can_be_named(photos, desk, tmp_path, capsys):
    scratched = photos / "new" / "scratched" / "000.png"
    verdict, page = put_before(scratched, desk, tmp_path / "claim.html", false_alarm_rate=0.01)
    assert (verdict.novel, verdict.p_value) == (None, None)
    printed = capsys.readouterr().out
    assert printed.startswith("No verdict: the desk has too few usual photos.\nThis desk has 20 usual photos. ")
    assert "A false-alarm rate of 0.01 takes 99." in printed
    assert '<div class="judgement borderline">' in page
    assert "Yellow to red marks the places of this photo that are the most unusual." in page
    assert page.count('data-label="p-value"></td>') == 1 + len(FAMILIES)
    verdict, page = put_before(scratched, desk, tmp_path / "again.html", false_alarm_rate=0.1)
    assert verdict.novel
    assert (
        "At the rate that was asked for, 10 of 100 usual photos are called new; the desk itself is set to 5 of 100."
        in page
    )
    assert "This desk is set to call" not in page
    with pytest.raises(VaeLdmError, match="a false-alarm rate is between 0 and 1, not 1"):
        claim(scratched, desk, false_alarm_rate=1.0)


def test_known_damage_is_told_from_new_damage(photos, build, tmp_path, capsys):
    past = shutil.copytree(photos / "past" / "good", tmp_path / "past" / "good").parent
    save_photos(past / "scratched", 18, seed=5, blemish=(26, 38))
    save_photos(past / "holed", 18, seed=6, blemish=(20, 20))
    desk = build(past, only_classes=["good"], false_alarm_rate=0.1)
    verdict, page = put_before(photos / "new" / "scratched" / "000.png", desk, tmp_path / "known.html")
    assert verdict.novel
    assert verdict.classes.most_like == "scratched"
    assert "scratched" in verdict.classes.possible
    assert "<strong>Not usual, and like a known class: scratched</strong>" in page
    assert "Usual photos are those of good." in page
    assert "Of the known classes " in page
    assert "none of the known classes" not in page
    hits = open_desk(desk)[1].query(photos / "new" / "good", k=3)[0]
    assert hits[0].photo.label == "good"
    assert claim_module._class_to_draw(verdict, hits) == "scratched", "variations are of the class in the verdict"
    Image.new("RGB", (64, 64), "yellow").save(tmp_path / "yellow.png")
    verdict, page = put_before(tmp_path / "yellow.png", desk, tmp_path / "new.html")
    assert claim_module._class_to_draw(verdict, hits) == "good"
    assert verdict.novel
    assert "<strong>Not seen before</strong>" in page
    assert "It is like none of the known classes; the nearest is " in page
    usual, page = put_before(photos / "new" / "good" / "001.png", desk, tmp_path / "usual.html")
    assert not usual.novel
    assert "known classes" not in page
    assert "Usual photos are those of good." in page
    assert claim_module._class_to_draw(usual, hits) == "good"


def test_photos_that_are_left_out_are_found_and_not_fitted_on(photos, build, tmp_path):
    (tmp_path / "odd.txt").write_text("good/000.png\n")
    desk = build(photos / "past", leave_out=tmp_path / "odd.txt")
    assert open_detector(desk / "novelty").facts.num_left_out == 1
    assert len(open_desk(desk)[1]) == 20, "the index has all"
    (tmp_path / "odd.txt").write_text("good/999.png\n")
    with pytest.raises(DataError, match=r"odd.txt, line 1: good/999.png is no photo of .*; did you mean"):
        build(photos / "past", leave_out=tmp_path / "odd.txt")


def test_classes_of_too_few_photos_are_named_as_such(photos, desk, tmp_path):
    """Of twelve photos a p-value is never low enough to rule a class out."""
    verdict, page = put_before(photos / "new" / "scratched" / "000.png", desk, tmp_path / "claim.html")
    assert verdict.classes.too_few == ["bent", "good"]
    assert "Of bent or good it has too few photos to rule the class out." in page
    assert "none of the known classes" not in page


def test_every_family_of_scores_is_explained(photos, desk, tmp_path):
    assert set(FAMILIES) == FAMILIES_IN_WORDS.keys() - {"combination"}
    _, page = put_before(photos / "new" / "good" / "001.png", desk, tmp_path / "claim.html")
    for words in FAMILIES_IN_WORDS.values():
        assert words in page


def test_the_page_shows_similar_claims_and_variations_and_asks_for_nothing(photos, desk, tmp_path):
    _, page = put_before(photos / "new" / "good" / "000.png", desk, tmp_path / "claim.html", num_similar=3)
    assert page.count('alt="Similar photo ') == 3
    assert page.count('alt="Variation ') == 4  # two at each of two strengths
    assert "Of the 3 most similar photos, " in page
    (seen,) = re.findall(r'src="data:image/png;base64,([^"]+)" alt="The photo as the model sees it"', page)
    enlarged = np.asarray(Image.open(io.BytesIO(base64.b64decode(seen))))
    (batch,) = open_desk(desk)[1].encoder.batches(photo_records(photos / "new" / "good" / "000.png"))
    scale = len(enlarged) // batch.images[0].shape[1]
    assert np.array_equal(enlarged[::scale, ::scale, :3], batch.images[0][0])
    assert all(source.startswith("data:image/png;base64,") for source in page.split('src="')[1:])
    assert "<script" not in page


def test_what_lies_beside_the_crop_is_shown_as_not_looked_at(photos, desk, tmp_path, capsys):
    square = Image.open(photos / "new" / "good" / "001.png")
    wide = Image.new("RGB", (128, 64), "red")
    wide.paste(square, (32, 0))
    wide.save(tmp_path / "wide.png")
    _, page = put_before(tmp_path / "wide.png", desk, tmp_path / "claim.html")
    assert "The model saw only the middle 50 % of the photo." in capsys.readouterr().out
    assert "does not see the pale part" in page
    _, page = put_before(photos / "new" / "good" / "001.png", desk, tmp_path / "claim.html")
    assert "pale part" not in page


def test_a_verdict_near_the_threshold_and_a_model_that_knows_no_such_photos_are_said(
    photos, trained_run, build, tmp_path, capsys
):
    model = shutil.copytree(trained_run.path, tmp_path / "run")
    (model / "metrics.json").write_text('{"measurements": [{"name": "psnr", "value": 90.0}]}')
    build(photos / "past", model=str(model), false_alarm_rate=0.4)
    save_photos(tmp_path / "more", 20, seed=7)
    judged = open_detector(tmp_path / "desk" / "novelty").judge(tmp_path / "more", heat_maps=False)
    for said, low, high in (("Unusual, but not enough", 0.4, 0.8), ("seen before", 0.8, 1)):
        photo = next(verdict.record.picture for verdict in judged if low < verdict.p_value <= high)
        _, page = put_before(photo, tmp_path / "desk", tmp_path / f"{high}.html")
        assert said in capsys.readouterr().out
        assert "dB and its own validation photos at 90.0 dB; it does not know such photos well" in page


def test_an_autoencoder_alone_draws_no_variations_and_the_page_says_so(photos, trained_run, build, tmp_path):
    shutil.copytree(trained_run.autoencoder, tmp_path / "autoencoder", ignore=shutil.ignore_patterns("checkpoints"))
    build(photos / "past", model=str(tmp_path / "autoencoder"))
    _, page = put_before(photos / "new" / "good" / "000.png", tmp_path / "desk", tmp_path / "claim.html")
    assert "no diffusion model to draw with" in page


def test_the_page_is_written_even_where_nobody_reads_what_is_printed(photos, desk, tmp_path):
    """As after `| head -1`: the pipe is closed before the first line comes."""
    command = [sys.executable, "-m", "vae_ldm", "claim", str(photos / "new" / "good" / "000.png"), "--desk", str(desk)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "<h2>Variations</h2>" in (tmp_path / "claim.html").read_text()


def test_what_is_wrong_is_said_in_one_line(photos, desk, tmp_path):
    new = photos / "new" / "good" / "000.png"
    with pytest.raises(VaeLdmError, match="is no desk"):
        claim(new, tmp_path)
    with pytest.raises(VaeLdmError, match="is the detector of a desk; give the desk, "):
        claim(new, desk / "novelty")
    with pytest.raises(WeightsError, match="is a desk; give its detector, "):
        open_detector(desk)
    with pytest.raises(VaeLdmError, match="no such folder"):
        claim(new, desk, out=tmp_path / "nowhere" / "claim.html")
    with pytest.raises(VaeLdmError, match="holds 3 photos; give one of them"):
        claim(photos / "new", desk)
    (tmp_path / "half.png").write_bytes(new.read_bytes()[:60])
    with pytest.raises(DataError, match=r"half\.png: cannot be read"):
        claim(tmp_path / "half.png", desk)
    save_autoencoder(tmp_path / "other", **SD)
    with pytest.raises(WeightsError, match="was built with another model than"):
        claim(new, desk, model=str(tmp_path / "other"))


def test_the_thumbnail_of_a_photo_that_is_stored_turned_is_whole_and_upright(tmp_path):
    upright = Image.new("RGB", (480, 640), "green")
    upright.paste("red", (0, 0, 480, 80))
    upright.paste("blue", (0, 560, 480, 640))
    exif = Image.Exif()
    exif[0x112] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    seen, expected = (_thumbnail(tmp_path / name) for name in ("turned.png", "upright.png"))
    assert np.array_equal(seen, expected)
    assert seen.shape[0] > seen.shape[1]
    assert _thumbnail(tmp_path / "gone.png") is None


def test_the_work_is_done_once_and_the_verdict_comes_before_the_pipeline(photos, desk, tmp_path, monkeypatch, capsys):
    calls, before, said = Counter(), Counter(), []
    for name in ("encode", "decode", "from_pretrained"):
        original = getattr(AutoencoderKL, name)
        monkeypatch.setattr(AutoencoderKL, name, _counting(original, name, calls))
    open_pipeline = claim_module.open_pipeline

    def opening(*arguments, **options):
        said.append(capsys.readouterr().out)
        before.update(calls)
        return open_pipeline(*arguments, **options)

    monkeypatch.setattr(claim_module, "open_pipeline", opening)
    put_before(photos / "new" / "good" / "001.png", desk, tmp_path / "claim.html")
    assert said[0].startswith("Looks like what was seen before.\nIts p-value is ")
    assert (before["encode"], before["decode"]) == (1, 1)
    assert calls["encode"] == 1
    assert calls["decode"] == 1 + len(STRENGTHS)
    assert calls["from_pretrained"] == 1


def _counting(method, name, calls):
    function = getattr(method, "__func__", method)

    @functools.wraps(function)
    def counted(*arguments, **options):
        calls[name] += 1
        return function(*arguments, **options)

    return classmethod(counted) if name == "from_pretrained" else counted


def test_verdict_and_neighbours_are_those_of_detector_and_index(photos, desk, tmp_path):
    photo = photos / "new" / "good" / "001.png"
    verdict, page = put_before(photo, desk, tmp_path / "claim.html", num_similar=3)
    detector, index = open_desk(desk)
    (judged,) = detector.judge(photo_records(photo))
    assert (verdict.p_value, verdict.score, verdict.max_heat) == (judged.p_value, judged.score, judged.max_heat)
    assert np.array_equal(verdict.heat_map, judged.heat_map)
    (hits,) = index.query(photo_records(photo), k=3)
    image = Image.open(photo)
    for same in (photo, str(photo), image, np.array(image), torch.from_numpy(np.array(image)).movedim(-1, 0)):
        assert [[hit.photo for hit in found] for found in index.query(same, k=3)] == [[hit.photo for hit in hits]]
        assert [one.score for one in detector.judge([same], heat_maps=False)] == [judged.score]
    batch = next(index.encoder.batches(photo_records(photo)))
    (found,) = index.nearest(batch.records, index.encoder.vectors(batch), 3)
    assert found == hits
    assert [page.index(hit.photo.id) for hit in hits] == sorted(page.index(hit.photo.id) for hit in hits)


def test_a_photo_that_is_encoded_in_tiles_is_encoded_once(photos, build, tmp_path, monkeypatch):
    monkeypatch.setitem(loading.load_autoencoder.__kwdefaults__, "tile_size", 128)
    save_autoencoder(tmp_path / "large", **SD)  # of 256 px
    desk = build(photos / "past", model=str(tmp_path / "large"))
    photo = photos / "new" / "good" / "001.png"
    _, index = open_desk(desk)
    (batch,) = index.encoder.batches(photo_records(photo))
    indexed, calls = index.encoder.vectors(batch)["latents"], Counter()
    monkeypatch.setattr(PhotoEncoder, "latents", _counting(PhotoEncoder.latents, "latents", calls))
    put_before(photo, desk, tmp_path / "claim.html")
    assert calls["latents"] == 1
    assert indexed.isfinite().all()


def test_a_claim_meets_neither_lightning_nor_torchmetrics(photos, desk, tmp_path):
    command = ["claim", str(photos / "new" / "good" / "001.png"), "--desk", str(desk), "--num-variations", "0"]
    script = (
        f"import sys\nfrom vae_ldm.cli import app\ntry:\n    app({command})\nfinally:\n    print(sorted(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "claim.html").exists(), ended.stderr
    assert "'vae_ldm.desk.claim.claim'" in ended.stdout
    assert "'torchmetrics'" not in ended.stdout
    assert "'pytorch_lightning'" not in ended.stdout
