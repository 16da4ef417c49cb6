"""Quantised latents as few bytes, and back without loss, by a range coder.

A message describes itself: one byte of version and method, then channels, height and width as numbers of variable
length, then the symbols. Version 0.1.0 also wrote messages of zstd, where there was no range coder or it took more
bytes; they are still read.
"""

import functools
from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np
import pyarrow as pa

from vae_ldm.latent_space.quantization import LARGEST_SYMBOL
from vae_ldm.latent_space.symbol_model import PASSES, SymbolModel, frequencies

_VERSION = 1
_RANGE, _ZSTD = 1, 2  # 2, 3 and 4: zstd of whole numbers of 1, 2 and 4 bytes
_TYPES = (np.dtype("<i1"), np.dtype("<i2"), np.dtype("<i4"))
_MOST_SYMBOLS = 2**28
_HALF = 2**16


class DamagedMessageError(ValueError):
    """These bytes are no message, or not one of this model."""


def encode_symbols(symbols: np.ndarray, model: SymbolModel) -> bytes:
    """A message of symbols int32 [C, h, w], below 2^20 each."""
    assert symbols.ndim == 3, f"one picture's symbols are [C, h, w], not {symbols.shape}"
    assert len(symbols) == model.num_channels, f"{len(symbols)} channels, the model has {model.num_channels}"
    return bytes([_VERSION << 4 | _RANGE]) + b"".join(map(_varint, symbols.shape)) + _with_range_coder(symbols, model)


def decode_symbols(message: bytes, model: SymbolModel) -> np.ndarray:
    """The symbols int32 [C, h, w] that `encode_symbols` was given. Raises DamagedMessageError."""
    shape, method, body = _opened(message)
    if shape[0] != model.num_channels:
        raise DamagedMessageError(f"it holds {shape[0]} channels, the model has {model.num_channels}")
    if method == _RANGE:
        return _from_range_coder(body, shape, model)
    return _from_zstd(body, shape, _TYPES[method - _ZSTD])


def message_shape(message: bytes) -> tuple[int, int, int]:
    """Channels, height and width of the symbols. Raises DamagedMessageError."""
    return _opened(message)[0]


def _opened(message: bytes) -> tuple[tuple[int, int, int], int, bytes]:
    if not message:
        raise DamagedMessageError("it is empty")
    version, method = divmod(message[0], 16)
    if version != _VERSION or not _RANGE <= method < _ZSTD + len(_TYPES):
        raise DamagedMessageError(f"version {version}, method {method} is not known here")
    position, shape = 1, []
    for _ in range(3):
        number = shift = 0
        while True:
            if position >= len(message) or shift > 28:
                raise DamagedMessageError("its shape cannot be read")
            byte = message[position]
            position += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        shape.append(number)
    channels, height, width = shape
    if channels * height * width > _MOST_SYMBOLS:
        raise DamagedMessageError(f"{channels} x {height} x {width} symbols are too many")
    return (channels, height, width), method, message[position:]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the last byte is below 128."""
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _from_zstd(body: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    try:
        raw = pa.Codec("zstd").decompress(body, decompressed_size=size, asbytes=True)
    except (OSError, ValueError) as error:
        raise DamagedMessageError(str(error)) from error
    if len(raw) != size:
        raise DamagedMessageError(f"it holds {len(raw)} bytes of symbols instead of {size}")
    return np.frombuffer(raw, dtype).reshape(shape).astype(np.int32)


@functools.lru_cache(maxsize=2**14)
def _categorical(distribution: int) -> tuple[Any, int]:
    """What the coder needs of a distribution, and how many symbols it has beside the escape."""
    weights = frequencies(distribution)
    return constriction.stream.model.Categorical(weights / weights.sum(), perfect=False), len(weights) - 1


def _groups(distribution: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each distribution of a pass with the positions that follow it: one call of the coder for all of them."""
    flat = distribution.ravel()
    order = np.argsort(flat, kind="stable")
    found, starts = np.unique(flat[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, starts[1:]), strict=True)


def _with_range_coder(symbols: np.ndarray, model: SymbolModel) -> bytes:
    stream = constriction.stream
    encoder = stream.queue.RangeEncoder()
    uniform = stream.model.Uniform(_HALF)
    for place in PASSES:
        actual = place.of(symbols)
        if not actual.size:
            continue
        expected = model.expect(symbols, place)
        residual = (actual - expected.base).ravel()
        for number, places in _groups(expected.distribution):
            categorical, escape = _categorical(number)
            values = residual[places] + escape // 2
            outside = (values < 0) | (values >= escape)
            coded = np.where(outside, escape, values).astype(np.int32)
            encoder.encode(coded, categorical)
            if outside.any():
                zigzag = _zigzag(residual[places][outside])
                halves = np.stack([zigzag // _HALF, zigzag % _HALF], axis=1).ravel()
                encoder.encode(halves.astype(np.int32), uniform)
    return encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _from_range_coder(body: bytes, shape: tuple[int, int, int], model: SymbolModel) -> np.ndarray:
    stream = constriction.stream
    # Zeros at the end are left off, and the coder takes words of four bytes.
    words = np.frombuffer(body + bytes(-len(body) % 4), "<u4").astype(np.uint32)
    decoder = stream.queue.RangeDecoder(words)
    uniform = stream.model.Uniform(_HALF)
    symbols = np.zeros(shape, np.int32)
    try:
        for place in PASSES:
            target = place.of(symbols)
            if not target.size:
                continue
            expected = model.expect(symbols, place)
            residual = np.empty(target.size, np.int64)
            for number, places in _groups(expected.distribution):
                categorical, escape = _categorical(number)
                values = decoder.decode(categorical, len(places)).astype(np.int64)
                outside = values == escape
                values -= escape // 2
                if outside.any():
                    halves = decoder.decode(uniform, 2 * int(outside.sum())).astype(np.int64).reshape(-1, 2)
                    values[outside] = _zigzag_back(halves[:, 0] * _HALF + halves[:, 1])
                residual[places] = values
            target[...] = (residual.reshape(target.shape) + expected.base).clip(-LARGEST_SYMBOL, LARGEST_SYMBOL)
    except AssertionError as error:  # constriction's word for a stream that no encoder has made
        raise DamagedMessageError(str(error)) from error
    return symbols


def _zigzag(numbers: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return np.where(numbers < 0, -2 * numbers - 1, 2 * numbers)


def _zigzag_back(numbers: np.ndarray) -> np.ndarray:
    return np.where(numbers % 2 == 1, -(numbers + 1) // 2, numbers // 2)
