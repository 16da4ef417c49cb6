"""One picture of any kind, as a small uint8 array of the size the run works at."""

import contextlib
import functools
import io
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from vae_ldm.choices import Resize
from vae_ldm.models.photo_errors import why_unreadable
from vae_ldm.models.pillow_images import known_formats, to_eight_bits

Remark = Literal["profile", "levels"]
"""What decoding passes over: a colour profile other than sRGB; the levels that are left of a 16-bit picture."""


@dataclass(frozen=True)
class Unusable:
    """Stands for a picture that a metadata file names and that cannot be used as its row says."""

    reason: str


Picture = Path | bytes | Image.Image | Unusable


_SMALLEST_SIDE = 8
_LARGEST_TEXT = 64 * 2**20
"""Bytes of text that a PNG may hold beside its pixels; Pillow's own limit of 1 MiB refuses pictures of some cameras."""
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_SRGB_PRIMARIES = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
"""X, Y, Z of sRGB's red, green and blue, adapted to D50 as ICC profiles hold them (IEC 61966-2-1)."""
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
    on_remark: Callable[[Remark, int], None] | None = None,
) -> np.ndarray:
    """uint8 [height, width, C] of a file, its bytes or an open picture, upright and of `image_size`.

    C is `channels`; with None it is 1 for a grey picture (also one stored as RGB) and 3 for any other. Alpha is laid
    over white unless there are 4 channels. 16-bit grey keeps its scale: 65535 becomes 255. An animation gives its first
    frame. The size is read from the header and refused before anything is decoded.

    `on_remark` is called with "profile" and 1 for a colour profile other than sRGB, which is not applied, and with
    "levels" and a number for a 16-bit picture: how many of the 256 levels of 8 bits it uses.

    Raises UnreadablePictureError where the picture cannot be used.
    """
    image = _open(picture, max_pixels, draft_size=image_size, keep_alpha=channels == 4, on_remark=on_remark)
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


def encoded_bytes(picture: Picture) -> bytes:
    """The picture's file as it is. Raises UnreadablePictureError where there is none that can be read."""
    if isinstance(picture, Image.Image):
        raise UnreadablePictureError("it is no file")
    with _told_as_unreadable(picture):
        file = _checked_file(picture)
        return file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes()


def upright_size(picture: Picture, *, max_pixels: int = 89_478_485) -> tuple[int, int]:
    """Height and width of the picture as `decode_picture` turns it by its EXIF orientation.

    Raises UnreadablePictureError where the picture cannot be opened, or has more pixels than `max_pixels`.
    """
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    with _told_as_unreadable(picture), Image.open(_checked_file(picture), formats=known_formats()) as image:
        _checked(image, max_pixels, smallest_side=1)  # a PNG's orientation may come after all of its pixels
        height, width = image.height, image.width
        turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if turned else (height, width)


@contextlib.contextmanager
def pillow_limit_lifted() -> Iterator[None]:
    """Switch off Pillow's own limits, which hold for the whole process, so that `max_pixels` alone rules.

    A PNG may hold 64 MiB of text beside its pixels, not 1.
    """
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, _LARGEST_TEXT
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits


def _open(
    picture: Picture,
    max_pixels: int,
    *,
    keep_alpha: bool,
    draft_size: tuple[int, int] | None = None,
    smallest_side: int = _SMALLEST_SIDE,
    on_remark: Callable[[Remark, int], None] | None = None,
) -> Image.Image:
    """The upright picture as L, RGB or (only with `keep_alpha`) RGBA; with a `draft_size` a large JPEG is reduced."""
    with _told_as_unreadable(picture):
        if isinstance(picture, Image.Image):
            return to_eight_bits(_checked(picture, max_pixels, smallest_side), keep_alpha=keep_alpha)
        with Image.open(_checked_file(picture), formats=known_formats()) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the final size leaves the smoothing to Lanczos. The
            # longer side serves for both because the picture may yet be turned.
            _checked(image, max_pixels, smallest_side)
            if draft_size is not None:
                image.draft(None, (2 * max(draft_size),) * 2)
            ImageOps.exif_transpose(image, in_place=True)
            small = to_eight_bits(image, keep_alpha=keep_alpha)
            if on_remark is not None:
                for remark, value in _remarks(image, small):
                    on_remark(remark, value)
            return small


@contextlib.contextmanager
def _told_as_unreadable(picture: Picture) -> Iterator[None]:
    """Decoders meet any bytes at all and fail in their own ways (OSError, SyntaxError, struct.error, ...)."""
    try:
        yield
    except UnreadablePictureError:
        raise
    except Exception as error:
        raise UnreadablePictureError(why_unreadable(error, _start(picture))) from error


def _checked_file(picture: Path | bytes | Unusable) -> Path | io.BytesIO:
    """What Pillow opens. Reading from a pipe or a device may never end, so only regular files are opened."""
    if isinstance(picture, Unusable):
        raise UnreadablePictureError(picture.reason)
    if isinstance(picture, bytes):
        return io.BytesIO(picture)
    if not stat.S_ISREG(picture.stat().st_mode):
        raise UnreadablePictureError("not a regular file")
    return picture


def _start(picture: Picture) -> bytes | None:
    """The first 12 bytes of the picture's file; None where there is none that can be read."""
    if isinstance(picture, Image.Image):
        return None
    try:
        file = _checked_file(picture)
        with file if isinstance(file, io.BytesIO) else file.open("rb") as stream:
            return stream.read(12)
    except (OSError, UnreadablePictureError):
        return None


def _remarks(image: Image.Image, eight_bits: Image.Image) -> Iterator[tuple[Remark, int]]:
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and _has_other_primaries(profile):
        yield "profile", 1
    if image.mode.startswith("I"):
        yield "levels", sum(count > 0 for count in eight_bits.histogram())


@functools.lru_cache(maxsize=64)
def _has_other_primaries(profile: bytes) -> bool:
    """Whether an ICC profile is one of red, green and blue other than sRGB's; False where it cannot be read."""
    if profile[16:20] != b"RGB ":
        return False
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        colorants = (opened.red_colorant, opened.green_colorant, opened.blue_colorant)
        primaries = [colorant[0] for colorant in colorants if colorant is not None]
    except (OSError, ImportError, TypeError):  # damaged, a Pillow without littlecms, or a profile of tables
        return False
    return len(primaries) == 3 and not np.allclose(primaries, _SRGB_PRIMARIES, atol=0.01)


def _checked(image: Image.Image, max_pixels: int, smallest_side: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadablePictureError(
            f"too large ({width}x{height} pixels are more than max_pixels={max_pixels} allows)"
        )
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
