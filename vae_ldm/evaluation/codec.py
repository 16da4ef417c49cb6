"""Picture codecs that everybody has, at given bytes or a given quality: what latents are to be measured against."""

import functools
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from vae_ldm.evaluation.reconstruction import MAX_PSNR
from vae_ldm.pages.image_grid import MODES

_STRAIGHT_STEPS = 4
"""Interpolation steps of a search; on a curve where these do not suffice, halving is faster."""
_DB_A_QUALITY = (0.1, 0.003)
"""A and B of A + B * quality, the dB that a quality of AVIF adds on photos of clothes, labels and tins; a search that
begins with a guess goes on by it."""


@dataclass(frozen=True)
class Codec:
    """A format of Pillow's, and the settings with which it makes the most of its bytes in reasonable time."""

    name: str
    settings: dict[str, object]
    min_quality: int
    max_quality: int
    repeats: bool = False
    """Whether several qualities give the same file: those that fall on one of the format's quantisers."""


_CODECS = {
    "jpg": Codec("JPEG", {"optimize": True}, 1, 95),
    "webp": Codec("WebP", {"method": 4}, 0, 100),
    "avif": Codec("AVIF", {"speed": 6, "max_threads": 1}, 0, 100, repeats=True),
}


class Compressed(NamedTuple):
    """A picture that went through a codec."""

    pixels: np.ndarray
    """uint8 [H, W, C], as the original."""
    file: bytes

    @property
    def num_bytes(self) -> int:
        """The number of bytes of the whole file."""
        return len(self.file)


def codecs() -> list[Codec]:
    """JPEG, WebP and AVIF, as far as this Pillow has them."""
    return [codec for feature, codec in _CODECS.items() if features.check(feature)]


def picture_psnr(pixels: np.ndarray, original: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 [H, W, C] over all channels, at most 100."""
    error = float(np.square(pixels.astype(np.float32) - original).mean(dtype=np.float64))
    return min(10 * math.log10(255**2 / error), MAX_PSNR) if error else MAX_PSNR


class Ladder(ABC):
    """One picture at every quality of some way to keep it, as far as somebody asks.

    Files and dB of a quality are made once and kept. Both are taken to grow with quality.
    """

    def __init__(self, pixels: np.ndarray, min_quality: int, max_quality: int) -> None:
        """A ladder of qualities of the picture uint8 [H, W, C]."""
        self.pixels, self.min_quality, self.max_quality = pixels, min_quality, max_quality
        self._files: dict[int, bytes] = {}
        self._psnr: dict[int, float] = {}

    def __getitem__(self, quality: int) -> Compressed:
        """The picture at this quality."""
        quality = self.same_as(quality)
        made = Compressed(self._decode(quality), self.file(quality))
        if quality not in self._psnr:
            self._psnr[quality] = picture_psnr(made.pixels, self.pixels)
        return made

    def same_as(self, quality: int) -> int:
        """The lowest quality that gives the same file."""
        return quality

    def file(self, quality: int) -> bytes:
        """What this quality is kept in."""
        quality = self.same_as(quality)
        if quality not in self._files:
            self._files[quality] = self._encode(quality)
        return self._files[quality]

    def num_bytes(self, quality: int) -> int:
        """The number of bytes of the whole file."""
        return len(self.file(quality))

    def psnr(self, quality: int) -> float:
        """dB that this quality keeps."""
        quality = self.same_as(quality)
        if quality not in self._psnr:
            self._psnr[quality] = picture_psnr(self._decode(quality), self.pixels)
        return self._psnr[quality]

    @abstractmethod
    def _encode(self, quality: int) -> bytes: ...

    @abstractmethod
    def _decode(self, quality: int) -> np.ndarray: ...

    def within(self, max_bytes: float) -> int:
        """The best quality whose file has at most `max_bytes`; the lowest where even that has more."""
        known = {quality: math.log(len(file)) for quality, file in self._files.items()}
        more = math.log(math.floor(max_bytes) + 1)
        first_above = self._first(lambda quality: math.log(self.num_bytes(quality)), more, known)
        return max(first_above - 1, self.min_quality)

    def reaching(self, min_psnr: float, max_bytes: float = math.inf, near: int | None = None) -> int | None:
        """The lowest quality that keeps `min_psnr` dB, which is the smallest file; None if none does in `max_bytes`.

        The search begins at `near`. A good guess makes it a short one; where dB grow with quality it finds the same.
        """

        def psnr(quality: int) -> float | None:
            found = self.psnr(quality)
            is_hopeless = found < min_psnr and len(self._files.get(self.same_as(quality), b"")) > max_bytes
            return None if is_hopeless else found

        quality = self._first(psnr, min_psnr, self._psnr, near)
        return quality if quality <= self.max_quality and self.num_bytes(quality) <= max_bytes else None

    def _first(
        self,
        measure: Callable[[int], float | None],
        least: float,
        known: Mapping[int, float],
        near: int | None = None,
    ) -> int:
        """The lowest quality whose measure is at least `least`, else one above the highest.

        What is `known` of the measure narrows the search; a few steps of it go where a straight line leads, the first
        ones from the guess `near` if there is one, then it halves. A measure of None ends it: no quality will do.
        """
        above = {quality: value for quality, value in known.items() if value >= least}
        high = min(above, default=self.max_quality + 1)
        below = [quality for quality in known if quality < high]
        low = max(below, default=self.min_quality - 1)
        value_low, value_high = (known.get(quality) for quality in (low, high))
        straight = _STRAIGHT_STEPS
        while high - low > 1:
            quality = (low + high) // 2
            if straight and value_low is not None and value_high is not None:
                straight -= 1
                share = (least - value_low) / (value_high - value_low)
                quality = min(max(low + math.ceil(share * (high - low)), low + 1), high - 1)
            elif straight and near is not None:
                straight -= 1
                constant, slope = _DB_A_QUALITY
                if value_low is not None:
                    near = low + math.ceil((least - value_low) / (constant + slope * low))
                elif value_high is not None:
                    near = high - math.floor((value_high - least) / (constant + slope * high))
                quality = min(max(near, low + 1), high - 1)
            value = measure(quality)
            if value is None:
                return self.max_quality + 1
            if value >= least:
                high, value_high = quality, value
            else:
                low, value_low = quality, value
        return high


class CodecLadder(Ladder):
    """One picture at the qualities of a codec."""

    def __init__(self, pixels: np.ndarray, codec: Codec) -> None:
        """A ladder of qualities of uint8 [H, W, C], with C 1, 3 or, where the codec has transparency, 4."""
        super().__init__(pixels, codec.min_quality, codec.max_quality)
        self.codec = codec

    def same_as(self, quality: int) -> int:
        """The lowest quality that gives the same file."""
        return _same_files(self.codec.name)[quality] if self.codec.repeats else quality

    def _encode(self, quality: int) -> bytes:
        image = Image.fromarray(self.pixels.squeeze(-1) if self.pixels.shape[-1] == 1 else self.pixels)
        stream = io.BytesIO()
        image.save(stream, self.codec.name, quality=quality, **self.codec.settings)
        return stream.getvalue()

    def _decode(self, quality: int) -> np.ndarray:
        return decode_file(self.file(quality), self.pixels.shape[-1])


@functools.cache
def _same_files(name: str) -> list[int]:
    """The lowest quality that gives the same file as each quality of a codec, found on a small picture of noise."""
    codec = next(codec for codec in codecs() if codec.name == name)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    ladder = CodecLadder(noise, replace(codec, repeats=False))
    first: dict[bytes, int] = {}
    return [first.setdefault(ladder.file(quality), quality) for quality in range(codec.max_quality + 1)]


def decode_file(file: bytes, channels: int) -> np.ndarray:
    """uint8 [H, W, channels] of a codec's file."""
    with Image.open(io.BytesIO(file)) as decoded:
        return np.asarray(decoded.convert(MODES[channels])).reshape(decoded.height, decoded.width, channels)


def compress_to(pixels: np.ndarray, codec: Codec, max_bytes: float) -> Compressed:
    """The picture uint8 [H, W, C], C in 1, 3, at the best quality whose file has at most `max_bytes`.

    Where the lowest quality has more than that, it is taken all the same: `num_bytes` tells.
    """
    ladder = CodecLadder(pixels, codec)
    return ladder[ladder.within(max_bytes)]
