from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.desk.compare.comparison import AutoencoderResult, Candidate, Judge, in_sentences
from vae_ldm.desk.compare.page import HalfPrecision, Setting, write_comparison
from vae_ldm.evaluation.codec import codecs
from vae_ldm.evaluation.worst_crops import worst_crops

TIMES = "\N{MULTIPLICATION SIGN}"


def coder(name: str, factor: int, scale: float = 1.0) -> Candidate:
    """Latents are means of squares of `factor` px times `scale`."""

    def encode(images: Tensor) -> Tensor:
        return F.avg_pool2d(images, factor) * scale

    def decode(latents: Tensor) -> Tensor:
        return F.interpolate(latents / scale, scale_factor=float(factor), mode="bilinear")

    return Candidate(name, encode, decode, factor)


@pytest.fixture(scope="module")
def pictures(make_pictures) -> np.ndarray:
    return make_pictures(20, seed=0)[0]


@pytest.fixture(scope="module")
def judge(features, pictures) -> Judge:
    def perceptual(made: Tensor, originals: Tensor) -> Tensor:
        return (made - originals).abs().mean(dim=(1, 2, 3))

    return Judge(pictures, features=features, perceptual=perceptual, batch_size=7)


@pytest.fixture(scope="module")
def results(judge) -> list[AutoencoderResult]:
    return [
        judge.autoencoder(coder("acme/fine", 2, scale=3), codecs()),
        judge.autoencoder(coder("coarse", 4), codecs()),
    ]


def test_progress_counts_each_photo_once_and_once_more_for_each_codec(judge, pictures):
    told: list[tuple[int, int]] = []
    judge.autoencoder(coder("coarse", 4), codecs()[:2], lambda done, total: told.append((done, total)))
    assert told == [(done, 60) for done in (7, 14, 20, 40, 60)]


def test_every_number_is_about_every_picture(results, pictures):
    fine, coarse = results
    assert fine.pictures.shape == pictures.shape
    for values in (fine.psnr, fine.ssim, fine.perceptual, fine.psnr_in_bytes, fine.codecs[0].psnr):
        assert values.shape == (20,)
    assert (fine.psnr > coarse.psnr).all()
    assert fine.perceptual.mean() < coarse.perceptual.mean()
    assert fine.fd < coarse.fd
    assert fine.psnr_interval.low < fine.psnr.mean() < fine.psnr_interval.high
    assert fine.latent_shape == (3, 16, 16)
    assert fine.num_bytes == 3 * (256 + 4)
    assert (fine.psnr - fine.psnr_in_bytes).abs().max() < 0.5
    assert fine.linear_psnr > fine.psnr.mean()  # the mean of squares is not the best linear code
    assert fine.encode_seconds > 0
    assert fine.decode_seconds > 0
    # As a UNet sees them: three times what pixels have.
    means = (torch.from_numpy(pictures).float().mean(dim=(0, 1, 2)) / 127.5 - 1) * 3
    torch.testing.assert_close(torch.tensor(fine.channel_mean), means, atol=1e-3, rtol=1e-3)
    assert len(fine.channel_std) == 3


def test_codecs_get_the_bytes_of_the_latents(results):
    fine, coarse = results
    assert [codec.name for codec in fine.codecs] == ["JPEG", "WebP", "AVIF"]
    for codec in fine.codecs:
        assert codec.num_bytes <= fine.num_bytes or codec.share_that_fits < 1
    assert all(a.psnr.mean() >= b.psnr.mean() for a, b in zip(fine.codecs, coarse.codecs, strict=True))
    assert coarse.codecs[0].share_that_fits < 1  # no JPEG has so few


def test_autoencoders_of_one_shape_share_the_work_of_the_codecs(judge, results):
    again = judge.autoencoder(coder("again", 2), codecs())
    assert all(one is other for one, other in zip(again.codecs, results[0].codecs, strict=True))


def test_too_few_pictures_have_no_distance(features, pictures):
    few = Judge(pictures[:9], features=features, perceptual=lambda a, b: (a - b).flatten(1).mean(1))
    assert few.autoencoder(coder("few", 4), []).fd is None


def test_the_worst_crops_are_where_the_damage_is():
    originals = np.zeros((3, 96, 128, 3), np.uint8)
    made = originals.copy()
    made[1, 40:60, 70:100] = 255
    made[2, :8, :8] = 50
    first, second, third = worst_crops(originals, made)
    assert (first.row, second.row, third.row) == (1, 2, 0)
    assert first.side == 64
    assert first.of(made).mean() > 0.1 * 255
    assert first.psnr < second.psnr < third.psnr
    assert [crop.row for crop in worst_crops(originals, made, count=1)] == [1]
    assert worst_crops(originals[:, :20, :24], made[:, :20, :24])[0].side == 20


def test_the_sentence_says_what_the_numbers_say(results):
    fine, coarse = results
    said = in_sentences([coarse, fine])
    assert said.startswith("On 20 photos of 32 px, acme/fine reconstructs best: ")
    assert "dB above coarse. " in said
    assert "so train an autoencoder on these photos" in said
    assert said.endswith(".")
    good = replace(fine, linear_psnr=fine.psnr.mean().item() - 5)
    assert "5.0 dB above a linear code of its size, so use it as it is" in in_sentences([good])
    close = replace(good, linear_psnr=fine.psnr.mean().item() - 1)
    assert "That is only 1.0 dB above a linear code of its size, so fine-tune its decoder" in in_sentences([close])
    twin = replace(fine, name="twin", psnr=fine.psnr + torch.randn(20, generator=torch.Generator().manual_seed(0)))
    assert "which may be chance" in in_sentences([fine, twin])
    (few, others) = (replace(one, psnr=one.psnr[:5]) for one in (fine, coarse))
    assert "too few photos to tell that from chance" in in_sentences([few, others])
    assert (few.psnr_interval, fine.psnr_interval is None) == (None, False)
    sharp = replace(coarse, perceptual=fine.perceptual / 2)
    assert "Judged by features, coarse comes nearest" in in_sentences([fine, sharp])
    assert "No codec gets all photos into the" in in_sentences([replace(coarse, codecs=coarse.codecs[:1])])


def test_the_page_holds_all_of_it_and_asks_for_nothing(results, pictures, tmp_path: Path):
    setting = Setting(
        title="<my photos>",
        ids=[f"{number}.jpg" for number in range(20)],
        num_in_folder=40,
        num_unreadable=2,
        device="CPU",
        created="2026-11-24",
        batch_size=7,
        features_name="EffLite0",
        perceptual_name="perceptual EffLite0",
        fd_name="fd_EffLite0",
    )
    safety = {"acme/fine": HalfPrecision(61.5), "coarse": HalfPrecision(float("nan"))}
    write_comparison(tmp_path / "page.html", pictures, results, safety, setting)
    page = (tmp_path / "page.html").read_text()
    assert in_sentences(results) in page
    assert "&lt;my photos&gt;" in page
    assert f"20 of 40 photos, each 32 {TIMES} 32 pixels, 2 unreadable" in page
    for text in ("61.50 dB", "unsafe", f"3 {TIMES} 8 {TIMES} 8", "JPEG", "WebP", "AVIF", "fits 0 %"):
        assert text in page
    assert page.count("data:image/png;base64,") == 2
    assert 'src="http' not in page
    assert "<script" not in page
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    write_comparison(tmp_path / "one.html", pictures, results[:1], safety, setting)
    assert "is green" not in (tmp_path / "one.html").read_text()
