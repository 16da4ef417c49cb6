"""The report on an archive that is not there yet, by a tiny real model; how little it takes to find the smallest."""

import re
import subprocess

import pytest
from typer.testing import CliRunner

from tests.support.archived_photos import EASY, one_line_error, photo
from vae_ldm import loading
from vae_ldm.cli import app
from vae_ldm.data.decoding import decode_whole
from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk.archive import photo_coder
from vae_ldm.desk.archive.add import fitted_coder
from vae_ldm.desk.archive.photo_coder import KEPT_CODECS, PhotoCoder, latent_ladder
from vae_ldm.desk.archive.report import report
from vae_ldm.evaluation.codec import CodecLadder, codecs
from vae_ldm.terminal import StepReport


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        photo(number, (20 + number, 24)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def autoencoder(trained_run):
    return loading.load_autoencoder(trained_run.path)


@pytest.fixture
def coder(photos, autoencoder):
    return fitted_coder(autoencoder, photo_records(photos), lambda done, total: None)[0]


def test_it_says_from_the_start_what_time_is_left(photos, trained_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(StepReport, "seconds_to_first_line", 0.0)
    monkeypatch.setattr(StepReport, "seconds_between_lines", 0.0)
    report(photos, model=str(trained_run.path), out=tmp_path / "page.html", num_photos=2)
    begins = "measurements of 2 photos at 9 quality steps and in 3 codecs: "
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(begins)]
    assert re.search(r": 0 of \d+$", lines[0])
    assert all(line.endswith(" left") for line in lines[1:])
    assert len(lines) > 2 * 9


def test_one_photo_is_no_photos(photos, trained_run, tmp_path, capsys):
    report(photos / "0.png", model=str(trained_run.path), out=tmp_path / "page.html")
    said = capsys.readouterr().out + (tmp_path / "page.html").read_text()
    assert "mean of 1 photo\n" in said
    assert "1 of 1 photo, each at its own size" in said
    assert "1 photos" not in said
    assert f" · autoencoder {trained_run.path.name} · " in said
    assert str(trained_run.path) not in said  # the page is for others


def test_the_page_counts_the_photos_that_the_coder_was_fitted_on(photos, trained_run, tmp_path):
    (photos / "1.png").write_bytes(b"no picture")
    report(photos, model=str(trained_run.path), out=tmp_path / "page.html", num_photos=2)
    assert "The entropy coder was fitted on 1 other photo of the folder." in (tmp_path / "page.html").read_text()


def test_a_disk_that_takes_nothing_is_told_by_the_name_of_the_page(photos, trained_run, small_disk):
    command = ["archive", "report", str(photos), "--model", str(trained_run.path), "-n", "1", "--out"]
    page = small_disk(4) / "page.html"
    one_line_error(CliRunner().invoke(app, [*command, str(page)]), 1, f"error: {page}: No space left on device")
    assert list(page.parent.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,ro", str(page.parent)], check=True)
    one_line_error(CliRunner().invoke(app, [*command, str(page)]), 2, f"error: {page.parent}: may not be written to")


@pytest.mark.parametrize("target", [EASY, 25.0, 35.0, 60.0])
def test_what_is_kept_is_what_trying_everything_would_find(photos, autoencoder, coder, target):
    for seed in range(2):
        photo(seed, (96, 80)).save(file := photos / "large.png")  # on small ones dB go up and down
        pixels, found = decode_whole(file), {"file": file.stat().st_size}
        ladders = {one.name.lower(): CodecLadder(pixels, one) for one in codecs() if one.name in KEPT_CODECS}
        ladders["latents"] = latent_ladder(autoencoder, coder, pixels)
        for name, ladder in ladders.items():
            qualities = range(ladder.min_quality, ladder.max_quality + 1)
            sizes = [ladder.num_bytes(one) for one in qualities if ladder.psnr(one) >= target]
            found |= {name: min(sizes)} if sizes else {}
        encoded = PhotoCoder(autoencoder, coder, target_psnr=target).encode(pixels, file.read_bytes())
        assert encoded.psnr >= target
        assert encoded.method == min(found.items(), key=lambda one: one[1])[0]
        assert len(encoded.payload) <= 1.02 * found[encoded.method]


def test_a_photo_that_a_codec_keeps_smaller_costs_the_network_one_look(photos, autoencoder, coder, monkeypatch):
    calls = []
    decode = photo_coder.reconstruction
    monkeypatch.setattr(photo_coder, "reconstruction", lambda *arguments: calls.append(1) or decode(*arguments))
    file = photos / "0.png"
    encoded = PhotoCoder(autoencoder, coder, target_psnr=38).encode(decode_whole(file), file.read_bytes())
    assert encoded.method != "latents"
    assert len(calls) <= 1


def test_bytes_that_a_codec_takes_at_every_step_are_told_once(photos, trained_run, tmp_path, capsys):
    report(photos / "0.png", model=str(trained_run.path), out=tmp_path / "page.html")
    printed = capsys.readouterr().out
    titles, *rows = printed.partition("mean of 1 photo\n")[2].partition("\n\n")[0].splitlines()
    assert titles.split() == ["step", "PSNR", "latents", "fewest"]
    assert len(rows) == 9
    assert not any("≤" in row for row in rows)
    assert re.search(r"^bytes a photo at every step: JPEG ≤ \d+, WebP ≤ \d+, AVIF ≤ \d+$", printed, re.M)
