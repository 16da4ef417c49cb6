"""Pillow images of any mode with 8 bits a channel, and the formats of files that are read. No torch in here."""

import functools

import numpy as np
from PIL import Image

from vae_ldm.errors import DataError

# Only formats that Pillow decodes itself: it would hand an EPS file, whatever its name, to Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "JPEG2000", "PPM", "TGA")

_GREY_MODES = ("1", "L")


@functools.cache
def known_formats() -> list[str]:
    """The formats of photos that are read and that this Pillow has; with any other in the list Pillow opens nothing."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def to_eight_bits(image: Image.Image, *, keep_alpha: bool) -> Image.Image:
    """The image as L, RGB or (only with `keep_alpha`) RGBA; alpha is otherwise laid over white.

    16-bit grey keeps its scale: 65535 becomes 255. Raises DataError where pixels have no known range.
    """
    if image.mode.startswith("I"):
        return _from_deep_grey(np.asarray(image))
    if image.mode == "F":
        raise DataError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if keep_alpha:
            return image
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")


def _from_deep_grey(pixels: np.ndarray) -> Image.Image:
    """8 bits of 16: Pillow's own conversion would clip everything above 255 to white."""
    if pixels.min() < 0 or pixels.max() > 65535:
        raise DataError("32-bit pixels have no known range; save it with 8 or 16 bits")
    return Image.fromarray(((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8))
