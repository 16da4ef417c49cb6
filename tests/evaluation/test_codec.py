import numpy as np
import pytest

from vae_ldm.evaluation.codec import CodecLadder, codecs, compress_to, picture_psnr

ROWS, COLUMNS = np.mgrid[0:64, 0:96]
SMOOTH = np.stack([ROWS * 3, COLUMNS * 2, ROWS + COLUMNS], axis=-1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, SMOOTH.shape, np.uint8)


def error(one, other):
    return float(((one.astype(float) - other) ** 2).mean())


def test_this_pillow_has_the_three():
    assert [codec.name for codec in codecs()] == ["JPEG", "WebP", "AVIF"]


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: codec.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_bytes_are_kept_and_more_of_them_keep_more(codec, channels):
    picture = (SMOOTH // 2 + NOISE // 2)[..., :channels]
    few, many = (compress_to(picture, codec, size) for size in (2500, 6000))
    assert few.num_bytes <= 2500 < many.num_bytes <= 6000
    assert few.pixels.shape == picture.shape
    assert error(many.pixels, picture) < error(few.pixels, picture)


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: codec.name)
def test_a_budget_beyond_the_best_quality_and_below_the_lowest(codec):
    assert error(compress_to(SMOOTH, codec, 10**6).pixels, SMOOTH) < 20
    least = compress_to(NOISE, codec, 10)
    assert least.num_bytes > 10
    assert least.pixels.shape == NOISE.shape


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: codec.name)
@pytest.mark.parametrize("target", [24, 31.5])
def test_the_lowest_quality_that_reaches_a_psnr(codec, target):
    ladder = CodecLadder((SMOOTH // 2 + NOISE // 8)[..., :1], codec)  # grey: colour is halved before it is coded
    made = ladder.reaching(target)
    assert made is not None
    assert picture_psnr(made.pixels, ladder.pixels) >= target
    qualities = range(ladder.min_quality, ladder.max_quality + 1)
    quality = next(quality for quality in qualities if ladder[quality].file == made.file)
    assert quality == ladder.min_quality or ladder.psnr(quality - 1) < target


def test_a_psnr_beyond_the_best_quality_is_not_reached():
    assert CodecLadder(NOISE, codecs()[0]).reaching(60) is None


def test_the_psnr_of_equal_pictures_is_finite():
    assert picture_psnr(SMOOTH, SMOOTH) == 100
    assert picture_psnr(np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 255, np.uint8)) == pytest.approx(0)
