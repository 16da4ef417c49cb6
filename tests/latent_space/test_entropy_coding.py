"""What goes into the coder comes out of it, whatever it is; and in fewer bytes than by the symbols alone."""

import numpy as np
import pyarrow as pa
import pytest

from vae_ldm.latent_space.entropy_coding import (
    DamagedMessageError,
    _from_range_coder,
    _with_range_coder,
    decode_symbols,
    encode_symbols,
    message_shape,
)
from vae_ldm.latent_space.symbol_model import PASSES, SymbolModel, frequencies

RNG = np.random.default_rng(0)


def smooth_symbols(channels=3, height=16, width=12, step=0.25, seed=0):
    """Neighbours resemble each other, as in latents of photos."""
    noise = np.random.default_rng(seed).normal(size=(channels, height + 4, width + 4))
    smooth = sum(noise[:, y : y + height, x : x + width] for y in range(4) for x in range(4)) / 4
    return np.rint(smooth / step).astype(np.int32)


@pytest.fixture(scope="module")
def model():
    return SymbolModel.fit([smooth_symbols(seed=seed) for seed in range(30)])


SYMBOLS = {
    "zeros": np.zeros((3, 8, 8), np.int32),
    "one position": np.array([5, -3, 0], np.int32).reshape(3, 1, 1),
    "one row": RNG.integers(-9, 9, (3, 1, 37)).astype(np.int32),
    "all negative": np.full((3, 7, 5), -4, np.int32),
    "a single outlier": np.where(np.arange(3 * 9 * 9).reshape(3, 9, 9) == 100, 2**20 - 1, 0).astype(np.int32),
    "outliers alone": RNG.integers(-(2**20) + 1, 2**20, (3, 6, 6)).astype(np.int32),
    "as fitted": smooth_symbols(seed=99),
    "alike no longer": RNG.integers(-50, 50, (3, 16, 12)).astype(np.int32),
    "no positions": np.zeros((3, 0, 4), np.int32),
}


@pytest.mark.parametrize("symbols", SYMBOLS.values(), ids=SYMBOLS)
def test_symbols_come_back(model, symbols):
    message = encode_symbols(symbols, model)
    assert message_shape(message) == symbols.shape
    again = decode_symbols(message, model)
    assert again.dtype == np.int32
    np.testing.assert_array_equal(again, symbols)


@pytest.mark.parametrize("seed", range(20))
def test_symbols_of_any_shape_and_spread_come_back(model, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    symbols = np.rint(rng.standard_cauchy((3, height, width)) * rng.uniform(0.01, 30)).clip(-(2**20) + 1, 2**20 - 1)
    symbols = symbols.astype(np.int32)
    np.testing.assert_array_equal(decode_symbols(encode_symbols(symbols, model), model), symbols)


# Version 0.1.0 wrote these where it had no range coder: zstd of the symbols as numbers of 1, 2 and 4 bytes.
@pytest.mark.parametrize(("number", "dtype", "largest"), [(2, "<i1", 100), (3, "<i2", 30_000), (4, "<i4", 2**20 - 1)])
def test_old_messages_of_zstd_stay_readable(model, number, dtype, largest):
    symbols = np.random.default_rng(0).integers(-largest, largest, (3, 5, 7)).astype(dtype)
    body = pa.Codec("zstd").compress(symbols.tobytes(), asbytes=True)
    message = bytes([1 << 4 | number, 3, 5, 7]) + body
    assert message_shape(message) == (3, 5, 7)
    np.testing.assert_array_equal(decode_symbols(message, model), symbols)


def test_neighbours_are_worth_something(model):
    pictures = [smooth_symbols(seed=seed) for seed in range(100, 120)]
    num_bytes = sum(len(encode_symbols(picture, model)) for picture in pictures)
    _, counts = np.unique(np.concatenate([picture.ravel() for picture in pictures]), return_counts=True)
    shares = counts / counts.sum()
    entropy_alone = -(shares * np.log2(shares)).sum() * counts.sum() / 8
    assert num_bytes < 0.85 * entropy_alone


def test_every_position_is_passed_once():
    for height, width in ((1, 1), (5, 9), (16, 16), (17, 8)):
        visits = np.zeros((1, height, width), int)
        for place in PASSES:
            place.of(visits)[...] += 1
        assert (visits == 1).all()


def test_frequencies_are_whole_and_none_is_zero():
    for distribution in range(0, 960, 7):
        found = frequencies(distribution)
        assert (found == np.rint(found)).all()
        assert found.min() >= 1


# The bytes themselves, so that a library or a machine that makes others of them is noticed: archives outlive both.
def test_old_messages_stay_readable():
    weights = np.full((1, len(PASSES)), 6, np.uint8)
    forms = np.arange(64, 72, dtype=np.uint8)[None, None].repeat(len(PASSES), 1)
    model = SymbolModel(weights, forms)
    symbols = smooth_symbols(1, 13, 17, seed=5)
    symbols[0, 4, 4] = -1000
    assert _with_range_coder(symbols, model).hex() == STORED
    np.testing.assert_array_equal(_from_range_coder(bytes.fromhex(STORED), (1, 13, 17), model), symbols)


STORED = (
    "5ce4fa1150dfc7db4fc36a004188bd8390abd6ad8cb9fffaf06687000f6c2bdedbdefc66769faee122ad00d4536ffa1820e405ffab6944"
    "00013045ffff4f1c1354f4bfff40c71000eb2b1100836ec1a489b9f1f2e3573a1d0cc8ff7c4ae350002ac9771e2291cbff0130c7fe0120"
    "e3cd7b6a8cd1c05a1e8393e5b5a1837e84298fc4ae72d24b0031c40bf1f4d48ff448ff4f931049ffffffee130100760b01006e65879329"
    "ad07dfa2891e786babff67bd8ac8d85e1bba60ff2e6f431001dc47315ed19c73e757acbb0e6e84b6b248639387bd18ec0538fb011a6c5d"
    "98abffb1c0f87b"
)


@pytest.mark.parametrize(
    "message",
    [b"", b"\x00", b"\x11", b"\x91\x03\x08\x08", b"\x12\x03\xff\xff\xff\xff\xff\xff", b"\x12\x03\x08\x08rubbish"],
)
def test_what_is_no_message_is_said(model, message):
    with pytest.raises(DamagedMessageError):
        decode_symbols(message, model)


def test_other_channels_than_the_models_are_said(model):
    other = SymbolModel.fit([smooth_symbols(channels=2)])
    with pytest.raises(DamagedMessageError, match="holds 2 channels"):
        decode_symbols(encode_symbols(smooth_symbols(channels=2), other), model)
