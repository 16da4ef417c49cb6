import numpy as np
import pytest

from vae_ldm.evaluation.codec import CodecLadder, Ladder, codecs, compress_to, picture_psnr

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
    quality = ladder.reaching(target)
    assert quality is not None
    assert picture_psnr(ladder[quality].pixels, ladder.pixels) == ladder.psnr(quality) >= target
    assert quality == ladder.min_quality or ladder.psnr(quality - 1) < target


def test_a_psnr_beyond_the_best_quality_is_not_reached():
    assert CodecLadder(NOISE, codecs()[0]).reaching(60) is None


def test_the_psnr_of_equal_pictures_is_finite():
    assert picture_psnr(SMOOTH, SMOOTH) == 100
    assert picture_psnr(np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 255, np.uint8)) == pytest.approx(0)


class CountingLadder(Ladder):
    """A hundred and one qualities whose bytes and dB grow as given, and what was asked of them."""

    def __init__(self, num_bytes, psnr):
        super().__init__(np.zeros((1, 1, 1), np.uint8), 0, 100)
        self.sizes, self.values = [round(num_bytes(q)) for q in range(101)], [psnr(q) for q in range(101)]
        self.encoded, self.decoded = [], []

    def _encode(self, quality):
        self.encoded.append(quality)
        return bytes(self.sizes[quality])

    def psnr(self, quality):
        if quality not in self._psnr:
            self.decoded.append(quality)
            self._psnr[quality] = self.values[quality]
        return self._psnr[quality]

    def _decode(self, quality):
        raise NotImplementedError


SHAPES = {
    "straight": (lambda q: 100 + 10 * q, lambda q: 20 + q / 4),
    "bent": (lambda q: 100 * 1.05**q, lambda q: 20 + 25 * np.sqrt(q / 100)),
    "late": (lambda q: 100 + q**3 / 100, lambda q: 20 + 25 * (q / 100) ** 6),
    "level": (lambda q: 100 + q // 50, lambda q: 20 + q // 50),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_search_finds_what_looking_at_all_would(shape):
    targets = [19, 20, 20.5, 26, 31.9, 32, 40, 44.9, 45, 46]
    for least in targets:
        ladder = CountingLadder(*SHAPES[shape])
        expected = next((q for q in range(101) if ladder.values[q] >= least), None)
        assert ladder.reaching(least) == expected
        assert len(ladder.decoded) <= 12
    together = CountingLadder(*SHAPES[shape])
    assert [together.reaching(least) for least in targets] == [
        CountingLadder(*SHAPES[shape]).reaching(least) for least in targets
    ]
    for most in (50, 100, 101, 150.5, 600, 10**6):
        ladder = CountingLadder(*SHAPES[shape])
        assert ladder.within(most) == max((q for q in range(101) if ladder.sizes[q] <= most), default=0)
        assert not ladder.decoded
        assert len(ladder.encoded) <= 12


def test_what_takes_too_many_bytes_is_given_up_at_once():
    ladder = CountingLadder(lambda q: 100 + 10 * q, lambda q: 20 + q / 4)
    assert ladder.reaching(40, max_bytes=2000) == 80
    few = CountingLadder(lambda q: 100 + 10 * q, lambda q: 20 + q / 4)
    few.file(50)
    assert few.reaching(40, max_bytes=500) is None
    assert few.decoded == [50]
