"""Bytes against likeness, on ladders whose answers are known; and what a reader still reads."""

import numpy as np
import pytest
from PIL import Image

from vae_ldm.desk.archive.page import ArchiveSetting, _chart, write_archive_page
from vae_ldm.evaluation.codec import CodecLadder, Ladder, codecs, picture_psnr
from vae_ldm.evaluation.legibility import Reader, barcode_reader, character_error_rate, kept_share
from vae_ldm.evaluation.rate_distortion import (
    LATENTS,
    TARGETS,
    RateDistortionJudge,
    _bytes_at,
)
from vae_ldm.evaluation.rate_distortion_summary import _decibels, in_words, step_rows, target_rows
from vae_ldm.pages.curves import BOTTOM, LEFT, RIGHT, TOP

STEPS = [(0, 2.0), (1, 1.0), (2, 0.5)]
NAMES = [codec.name for codec in codecs()]


class KnownLadder(Ladder):
    """Latents that lose less and less, in bytes that are given."""

    def __init__(self, pixels, bytes_a_step, loss=16):
        super().__init__(pixels, 0, len(STEPS) - 1)
        self.bytes_a_step, self.loss = bytes_a_step, loss

    def _encode(self, quality):
        return bytes(self.bytes_a_step * (quality + 1))

    def _decode(self, quality):
        lost = np.resize([self.loss, -self.loss], self.pixels.shape) // 2**quality
        return (self.pixels.astype(int) + lost).astype(np.uint8)


def photo(seed, side=48):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 210, (6, 6, 3), np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).clip(20, 230)


def measured(bytes_a_step, readers=()):
    judge = RateDistortionJudge(STEPS, codecs(), readers, crop_step=1)
    for seed in range(3):
        judge.add(f"{seed}.png", KnownLadder(photo(seed), bytes_a_step))
    return judge.result()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([25.11, 25.12, 25.13], "25.1 dB"),
        ([19.04, 25.11, 25.12], "19.0 and 25.1 dB"),
        ([19.0, 22, 25], "19.0, 22.0 and 25.0 dB"),
    ],
)
def test_equal_decibels_are_said_once(values, said):
    assert _decibels(values) == said


def test_small_latents_win_and_large_ones_lose_and_both_is_said():
    won, lost = measured(5), measured(100_000)
    assert {row.best for row in step_rows(won)} == {LATENTS}
    assert LATENTS not in {row.best for row in step_rows(lost)}
    assert in_words(won, ["AVIF", "WebP"], 30)[0].startswith("Latents take fewer bytes than JPEG, WebP and AVIF")
    assert in_words(lost, ["AVIF", "WebP"], 30)[0].startswith("Codecs win everywhere")
    row = next(row for row in target_rows(won, ["AVIF", "WebP"]) if row.target == 30)
    assert (row.share_reached, row.share_won) == (1, 1)
    assert row.mixed_bytes == pytest.approx(10)
    row = next(row for row in target_rows(lost, ["AVIF", "WebP"]) if row.target == 30)
    assert row.share_won == 0
    assert row.mixed_bytes == row.codec_bytes


def test_a_row_is_of_equal_psnr():
    result = measured(50)
    for row, (number, _) in zip(step_rows(result), STEPS, strict=True):
        assert row.num_bytes[LATENTS] == 50 * (number + 1)
        error = 16 // 2**number
        assert row.psnr == pytest.approx(20 * np.log10(255 / error), abs=0.01)
    assert all(result.equal[name].shape == (3, 3) for name in NAMES)
    assert all(sizes.shape == (len(TARGETS), 3) for sizes in result.at_target.values())


def test_a_codec_pays_for_the_decibels_of_the_latents_and_not_for_the_rest_of_a_quality_step():
    """Half way in dB between two qualities it is charged their geometric mean."""
    ladder = KnownLadder(photo(0), 100)
    coarse, fine = (ladder.psnr(quality) for quality in (0, 1))
    assert _bytes_at(ladder, (coarse + fine) / 2) == pytest.approx((100 * 200) ** 0.5)
    assert _bytes_at(ladder, fine) == pytest.approx(200)
    assert _bytes_at(ladder, coarse - 5) == 100
    assert np.isnan(_bytes_at(ladder, 99))
    for codec in codecs():
        steps = CodecLadder(photo(1, 96), codec)
        for psnr in (26.3, 29.1, 33.7):
            quality = steps.reaching(psnr)
            found = _bytes_at(steps, psnr)
            if quality == steps.min_quality:
                assert found == steps.num_bytes(quality)
            else:
                assert steps.num_bytes(quality - 1) <= found <= steps.num_bytes(quality)


def test_where_a_codec_has_no_lower_quality_its_bytes_are_no_more_than_a_bound():
    result = measured(50)
    for row in step_rows(result):
        for codec in result.codecs:
            at_lowest = codec.psnr[0] > row.psnr
            assert (codec.name in row.lowest) == at_lowest.any()
            if at_lowest.all():
                assert row.num_bytes[codec.name] == codec.num_bytes[0].mean()
                assert row.lowest[codec.name] == (3, pytest.approx(codec.psnr[0].mean()))
    assert step_rows(result)[0].lowest.keys() == {"AVIF"}
    judge = RateDistortionJudge(STEPS[:1], codecs(), [], crop_step=0)
    judge.add("1.png", KnownLadder(photo(1), 50, loss=20))
    assert "of WebP (at its lowest quality, 23.0 dB)." in in_words(judge.result(), ["AVIF", "WebP"], 30)[0]


def test_the_chart_shows_all_ways_from_their_lowest_quality_to_the_target():
    result = measured(50)
    for target in (20.0, 32.0, 45.0):
        chart = _chart(result.latents, result.codecs, target)
        assert TOP < chart.target < BOTTOM
        for line in chart.lines:
            assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y, _ in line.dots)


def test_every_part_of_a_photo_is_told():
    judge = RateDistortionJudge(STEPS, codecs(), [Reader("eye", "marks", lambda pixels: ["a"])], crop_step=1)
    told = []
    judge.add("1.png", KnownLadder(photo(1), 50), told.append)
    assert told == sorted(set(told))
    assert told[0] == 1
    assert told[-1] == judge.parts_a_photo


def test_latents_that_never_reach_a_target_leave_it_to_codecs():
    row = next(row for row in target_rows(measured(5), ["AVIF", "WebP"]) if row.target == 40)
    assert (row.share_reached, row.share_won) == (0, 0)


def test_what_is_read_before_is_asked_for_after():
    originals = [photo(seed) for seed in range(3)]

    def read(pixels):
        nearest = max(picture_psnr(pixels, original) for original in originals)
        return ["large print"] * (nearest > 20) + ["small print"] * (nearest > 27)

    result = measured(50, [Reader("eye", "marks", read)])
    (one,) = result.legibility
    assert (one.num_photos, one.num_read) == (3, 6)
    assert one.kept[LATENTS].tolist() == [0.5, 1, 1]
    assert one.wrong[LATENTS].tolist() == [pytest.approx(12 / 23), 0, 0]


def test_shares_and_error_rates():
    assert kept_share(["a", "b"], ["b", "c"]) == 0.5
    assert character_error_rate(["abcd"], ["abxd"]) == 0.25
    assert character_error_rate(["abcd"], []) == 1


def test_barcodes_are_read_from_pixels():
    zxingcpp = pytest.importorskip("zxingcpp")
    reader = barcode_reader()
    assert reader is not None
    made = np.asarray(zxingcpp.create_barcode("PARCEL 42", zxingcpp.BarcodeFormat.QRCode).to_image(scale=4))
    for pixels in (made[..., None], made[..., None].repeat(3, axis=2)):
        (found,) = reader.read(pixels)
        assert found.endswith("PARCEL 42")
    assert reader.read(np.full((40, 40, 3), 255, np.uint8)) == []


@pytest.mark.parametrize("readers", [[], [Reader("eye", "lines of text", lambda pixels: ["A<b>"])]])
def test_the_page_opens_offline_and_escapes(tmp_path, readers):
    result = measured(50, readers)
    setting = ArchiveSetting(
        title="photos <b>", model="runs/nano", num_in_folder=9, num_fitted=6, fitted_on_others=True, num_unreadable=1,
        num_other_colors=1, median_size=(48, 48), device="CPU", created="2026-11-25", target_psnr=32.0,
        kept_codecs=["AVIF", "WebP"], advice="" if readers else "what survives is not measured: install",
    )  # fmt: skip
    write_archive_page(tmp_path / "page.html", result, in_words(result, ["AVIF", "WebP"], 32.0), setting)
    page = (tmp_path / "page.html").read_text()
    assert "photos &lt;b&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<path") == 1 + len(NAMES)
    assert "target 32 dB" in page
    assert "The entropy coder was fitted on 6 other photos of the folder." in page
    assert page.count("s lowest quality</title>") == len(NAMES)
    assert page.count('class="crop"') == 3
    assert page.count('class="lowest"') == sum(len(row.lowest) for row in step_rows(result)) == 1
