"""Picture codecs that everybody has, at a number of bytes that is given: what latents are to be measured against."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from vae_ldm.evaluation.image_grid import MODES


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
    num_bytes: int
    """Of the whole file."""


def codecs() -> list[Codec]:
    """JPEG, WebP and AVIF, as far as this Pillow has them."""
    return [codec for feature, codec in _CODECS.items() if features.check(feature)]


def compress_to(pixels: np.ndarray, codec: Codec, max_bytes: float) -> Compressed:
    """The picture uint8 [H, W, C], C in 1, 3, at the best quality whose file has at most `max_bytes`.

    Where the lowest quality has more than that, it is taken all the same: `num_bytes` tells. Found by bisection, since
    a file grows with its quality.
    """
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    low, high = codec.min_quality, codec.max_quality
    best = _encoded(image, codec, low)
    while low < high:
        middle = (low + high + 1) // 2
        file = _encoded(image, codec, middle)
        if len(file) <= max_bytes:
            low, best = middle, file
        else:
            high = middle - 1
    with Image.open(io.BytesIO(best)) as decoded:
        return Compressed(np.asarray(decoded.convert(MODES[pixels.shape[-1]])).reshape(pixels.shape), len(best))


def _encoded(image: Image.Image, codec: Codec, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, codec.name, quality=quality, **codec.settings)
    return stream.getvalue()
