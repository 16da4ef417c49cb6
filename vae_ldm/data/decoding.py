"""One picture of any kind, as a small uint8 array of the size the run works at."""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vae_ldm.models.image_input import to_eight_bits

Resize = Literal["crop", "pad"]
Picture = Path | bytes | Image.Image

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jp2"}
    | {".pbm", ".pgm", ".pnm", ".ppm", ".tga"}
)
"""File names that are taken for pictures in a folder."""

# Only formats that Pillow decodes itself: it would hand an EPS file, whatever its name, to Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "JPEG2000", "PPM", "TGA")
_SMALLEST_SIDE = 8
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class UnreadablePictureError(Exception):
    """One picture cannot be used; the message says why. It is counted and skipped, so no user meets it."""


def decode_picture(
    picture: Picture,
    *,
    image_size: tuple[int, int],
    channels: int | None = 3,
    resize: Resize = "crop",
    max_pixels: int = 89_478_485,
) -> np.ndarray:
    """uint8 [height, width, C] of a file, its bytes or an open picture, upright and of `image_size`.

    C is `channels`; with None it is 1 for a grey picture (also one stored as RGB) and 3 for any other. Alpha is laid
    over white unless there are 4 channels. 16-bit grey keeps its scale: 65535 becomes 255. Of an animation, the first
    frame. The size is read from the header and refused before anything is decoded.
    """
    image = _open(picture, max_pixels, draft_size=image_size, keep_alpha=channels == 4)
    if channels is not None:
        image = image.convert(_MODES[channels])
    image = _crop(image, image_size) if resize == "crop" else _pad(image, image_size)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[..., None]
    is_grey = channels is None and np.array_equal(pixels[..., 0], pixels[..., 1])
    return pixels[..., :1] if is_grey and np.array_equal(pixels[..., 0], pixels[..., 2]) else pixels


def decode_whole(picture: Picture, *, max_pixels: int = 89_478_485) -> np.ndarray:
    """uint8 [H, W, C] of a file, its bytes or an open picture, upright and of its own size, however small.

    C is 1 for a picture stored as grey, 4 for one with transparency, else 3; 16-bit grey keeps its scale.
    """
    pixels = np.asarray(_open(picture, max_pixels, smallest_side=1, keep_alpha=True))
    return pixels[..., None] if pixels.ndim == 2 else pixels


@contextlib.contextmanager
def pillow_limit_lifted() -> Iterator[None]:
    """Switch off Pillow's own pixel limit, which is one for the whole process, so that `max_pixels` alone rules."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@functools.cache
def _known_formats() -> list[str]:
    """Those of _FORMATS that this Pillow has: asking it for any other is an error for every picture."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _open(
    picture: Picture,
    max_pixels: int,
    *,
    keep_alpha: bool,
    draft_size: tuple[int, int] | None = None,
    smallest_side: int = _SMALLEST_SIDE,
) -> Image.Image:
    """The upright picture as L, RGB or (only with `keep_alpha`) RGBA; with a `draft_size` a large JPEG is reduced."""
    # Decoders meet any bytes at all and fail in their own ways (OSError, SyntaxError, struct.error, ...).
    try:
        if isinstance(picture, Image.Image):
            return to_eight_bits(_checked(picture, max_pixels, smallest_side), keep_alpha=keep_alpha)
        file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
        with Image.open(file, formats=_known_formats()) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the final size leaves the smoothing to Lanczos. The
            # longer side serves for both because the picture may yet be turned.
            _checked(image, max_pixels, smallest_side)
            if draft_size is not None:
                image.draft(None, (2 * max(draft_size),) * 2)
            ImageOps.exif_transpose(image, in_place=True)
            return to_eight_bits(image, keep_alpha=keep_alpha)
    except (UnreadablePictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnreadablePictureError("not a picture, or of a format that is not supported") from None
    except FileNotFoundError:
        raise UnreadablePictureError("the file does not exist") from None
    except Exception as error:
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
        raise UnreadablePictureError(reason.splitlines()[0]) from error


def _checked(image: Image.Image, max_pixels: int, smallest_side: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadablePictureError(f"{width}x{height} pixels are more than max_pixels={max_pixels} allows")
    if min(width, height) < smallest_side:
        raise UnreadablePictureError(f"too small ({width}x{height} pixels)")
    return image


def _crop(image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
    """Fill the size with the middle of the picture, in one pass over just the pixels needed."""
    height, width = image_size
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, min(left + width * scale, image.width), min(top + height * scale, image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _pad(image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
    """Fit into the size; what stays free takes the mean colour of the picture's border."""
    height, width = image_size
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = np.atleast_3d(np.asarray(image))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(axis=0).round().astype(int)
    canvas = Image.new(image.mode, (width, height), tuple(border.tolist()))
    canvas.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
