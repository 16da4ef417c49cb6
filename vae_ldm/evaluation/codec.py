"""Picture codecs that everybody has, at given bytes or a given quality: what latents are to be measured against."""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from vae_ldm.evaluation.image_grid import MODES
from vae_ldm.evaluation.reconstruction import MAX_PSNR


@dataclass(frozen=True)
class Codec:
    """A format of Pillow's, and the settings with which it makes the most of its bytes in reasonable time."""

    name: str
    settings: dict[str, object]
    min_quality: int
    max_quality: int


_CODECS = {
    "jpg": Codec("JPEG", {"optimize": True}, 1, 95),
    "webp": Codec("WebP", {"method": 4}, 0, 100),
    "avif": Codec("AVIF", {"speed": 6, "max_threads": 1}, 0, 100),
}


class Compressed(NamedTuple):
    """A picture that went through a codec."""

    pixels: np.ndarray
    """uint8 [H, W, C], as the original."""
    file: bytes

    @property
    def num_bytes(self) -> int:
        """Of the whole file."""
        return len(self.file)


def codecs() -> list[Codec]:
    """JPEG, WebP and AVIF, as far as this Pillow has them."""
    return [codec for feature, codec in _CODECS.items() if features.check(feature)]


def picture_psnr(pixels: np.ndarray, original: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 [H, W, C] over all channels, at most 100."""
    error = float(np.square(pixels.astype(np.float32) - original).mean(dtype=np.float64))
    return min(10 * math.log10(255**2 / error), MAX_PSNR) if error else MAX_PSNR


class Ladder(ABC):
    """One picture at every quality of some way to keep it, as far as somebody asks; each is made once."""

    def __init__(self, pixels: np.ndarray, min_quality: int, max_quality: int) -> None:
        """Of uint8 [H, W, C]."""
        self.pixels, self.min_quality, self.max_quality = pixels, min_quality, max_quality
        self._made: dict[int, Compressed] = {}

    def __getitem__(self, quality: int) -> Compressed:
        """The picture at this quality."""
        if quality not in self._made:
            self._made[quality] = self._make(quality)
        return self._made[quality]

    @abstractmethod
    def _make(self, quality: int) -> Compressed: ...

    def psnr(self, quality: int) -> float:
        """dB that this quality keeps."""
        return picture_psnr(self[quality].pixels, self.pixels)

    def within(self, max_bytes: float) -> Compressed:
        """The picture at the best quality whose file has at most `max_bytes`.

        Where the lowest quality has more than that, it is taken all the same: `num_bytes` tells.
        """
        first_above = self._first(lambda quality: self[quality].num_bytes > max_bytes)
        return self[max(first_above - 1, self.min_quality)]

    def reaching(self, min_psnr: float) -> Compressed | None:
        """The picture at the lowest quality that keeps `min_psnr` dB, which is the smallest file; None if none does."""
        if self.psnr(self.max_quality) < min_psnr:
            return None
        return self[self._first(lambda quality: self.psnr(quality) >= min_psnr)]

    def _first(self, holds: Callable[[int], bool]) -> int:
        """The lowest quality for which it holds, else one above the highest.

        By bisection, since bytes and likeness grow with quality.
        """
        low, high = self.min_quality, self.max_quality + 1
        while low < high:
            middle = (low + high) // 2
            if holds(middle):
                high = middle
            else:
                low = middle + 1
        return low


class CodecLadder(Ladder):
    """One picture at the qualities of a codec."""

    def __init__(self, pixels: np.ndarray, codec: Codec) -> None:
        """Of uint8 [H, W, C], C in 1, 3 and, where the codec has transparency, 4."""
        super().__init__(pixels, codec.min_quality, codec.max_quality)
        self.codec = codec

    def _make(self, quality: int) -> Compressed:
        channels = self.pixels.shape[-1]
        image = Image.fromarray(self.pixels.squeeze(-1) if channels == 1 else self.pixels)
        stream = io.BytesIO()
        image.save(stream, self.codec.name, quality=quality, **self.codec.settings)
        file = stream.getvalue()
        return Compressed(decode_file(file, channels), file)


def decode_file(file: bytes, channels: int) -> np.ndarray:
    """uint8 [H, W, channels] of a codec's file."""
    with Image.open(io.BytesIO(file)) as decoded:
        return np.asarray(decoded.convert(MODES[channels])).reshape(decoded.height, decoded.width, channels)


def compress_to(pixels: np.ndarray, codec: Codec, max_bytes: float) -> Compressed:
    """The picture uint8 [H, W, C], C in 1, 3, at the best quality whose file has at most `max_bytes`.

    Where the lowest quality has more than that, it is taken all the same: `num_bytes` tells.
    """
    return CodecLadder(pixels, codec).within(max_bytes)
