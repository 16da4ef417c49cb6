"""Every kind of picture becomes the same kind of array, and a hostile one costs nothing."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from vae_ldm.data.decoding import UnreadablePictureError, decode_picture, decode_whole, pillow_limit_lifted
from vae_ldm.models.image_input import known_formats


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _halves(mode: str, left: object, right: object, size: tuple[int, int] = (32, 16)) -> Image.Image:
    """A picture of two colours, so that left and right can be told apart."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def _png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size it never delivers."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("image", "kind", "left", "right"),
    [
        (_halves("L", 0, 200), "PNG", (0, 0, 0), (200, 200, 200)),
        (_halves("1", 0, 1), "PNG", (0, 0, 0), (255, 255, 255)),
        (_halves("RGB", (255, 0, 0), (0, 0, 255)), "PNG", (255, 0, 0), (0, 0, 255)),
        (_halves("RGB", (255, 0, 0), (0, 0, 255)).convert("P"), "GIF", (255, 0, 0), (0, 0, 255)),
        (_halves("LA", (0, 255), (0, 0)), "PNG", (0, 0, 0), (255, 255, 255)),
        (_halves("RGBA", (9, 99, 199, 255), (9, 99, 199, 0)), "PNG", (9, 99, 199), (255, 255, 255)),
        (_halves("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), "TIFF", (255, 255, 255), (0, 0, 0)),
        (_halves("I;16", 257 * 40, 65535), "PNG", (40, 40, 40), (255, 255, 255)),
        (_halves("I", 257 * 40, 65535), "TIFF", (40, 40, 40), (255, 255, 255)),
    ],
    ids=["L", "1", "RGB", "P", "LA", "RGBA", "CMYK", "I;16", "I"],
)
def test_every_mode_comes_out_as_rgb(image: Image.Image, kind: str, left: tuple, right: tuple) -> None:
    pixels = decode_picture(_encoded(image, kind), image_size=(16, 32))
    assert pixels.shape == (16, 32, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[8, 8]) == left
    assert tuple(pixels[8, 24]) == right


def test_four_channels_keep_alpha() -> None:
    image = _halves("RGBA", (9, 99, 199, 255), (9, 99, 199, 0))
    pixels = decode_picture(_encoded(image), image_size=(16, 32), channels=4)
    assert np.array_equal(pixels, np.asarray(image))
    assert (decode_picture(_encoded(image.convert("RGB")), image_size=(16, 32), channels=4)[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("mode", "color", "channels"),
    [("L", 77, 1), ("RGB", (77, 77, 77), 1), ("RGB", (77, 77, 78), 3), ("RGB", (78, 77, 77), 3)],
)
def test_without_channels_grey_is_found_by_its_pixels(mode: str, color: object, channels: int) -> None:
    pixels = decode_picture(_encoded(Image.new(mode, (16, 16), color)), image_size=(8, 8), channels=None)
    assert pixels.shape == (8, 8, channels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = _halves("RGB", (250, 0, 0), (0, 0, 250), size=(64, 32))
    upright.paste((0, 250, 0), (0, 0, 16, 8))  # a corner that tells all eight apart
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if undo is None else upright.transpose(undo)
    pixels = decode_picture(_encoded(stored, exif=exif), image_size=(32, 64))
    assert np.array_equal(pixels, np.asarray(upright))


def test_a_picture_of_the_final_size_is_left_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    for resize in ("crop", "pad"):
        assert np.array_equal(decode_picture(Image.fromarray(noise), image_size=(24, 40), resize=resize), noise)


def test_crop_takes_the_middle() -> None:
    image = Image.new("RGB", (90, 30), (255, 0, 0))
    image.paste((0, 255, 0), (30, 0, 60, 30))
    pixels = decode_picture(image, image_size=(30, 30))
    assert (pixels == (0, 255, 0)).all()


def test_pad_keeps_everything_and_fills_with_the_border() -> None:
    image = Image.new("RGB", (80, 20), (10, 20, 30))
    image.paste((200, 0, 0), (30, 8, 50, 12))
    pixels = decode_picture(image, image_size=(40, 40), resize="pad")
    assert (pixels[:15] == (10, 20, 30)).all()
    assert (pixels[25:] == (10, 20, 30)).all()
    assert pixels[20, 20, 0] > 150
    assert decode_picture(Image.new("L", (9, 2000)), image_size=(32, 32), channels=1, resize="pad").shape == (32, 32, 1)


def test_a_large_jpeg_decoded_small_looks_like_one_decoded_whole() -> None:
    ramp = np.linspace(0, 255, 900).astype(np.uint8)
    whole = Image.fromarray(np.stack([np.tile(ramp, (600, 1))] * 3, axis=-1))
    small = decode_picture(_encoded(whole, "JPEG", quality=95), image_size=(32, 32))
    reference = decode_picture(whole, image_size=(32, 32))
    assert np.abs(small.astype(int) - reference.astype(int)).max() <= 3


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    pixels = decode_picture(_encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), image_size=(8, 8))
    assert (pixels == (255, 0, 0)).all()


_TRUNCATED = "truncated: the end of the file is missing"
_NOISE = _encoded(Image.effect_noise((64, 64), 50))
_HOLED = _NOISE[:100] + bytes(1000) + _NOISE[1100:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:700], _TRUNCATED),
        (_NOISE[:700], _TRUNCATED),
        (_encoded(Image.new("RGB", (64, 64)), "BMP")[:99], _TRUNCATED),
        (_HOLED, "damaged$"),
        (_encoded(Image.new("RGB", (64, 64)), "BMP").replace(b"\x18\0", b"\x17\0", 1), "damaged, or of a kind of its"),
        (_encoded(Image.new("RGB", (1, 1))), r"too small \(1x1 pixels\)"),
        (b"once upon a time", "not a picture"),
        (b"", "an empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not a picture"),
        (_encoded(Image.new("F", (16, 16)), "TIFF"), "floating-point"),
        (_encoded(Image.new("I", (16, 16), 70_000), "TIFF"), "32-bit"),
    ],
    ids=["jpeg", "png", "bmp", "no data", "depth", "1x1", "text", "empty", "eps", "float", "int32"],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadablePictureError, match=f"^{reason}") as caught:
        decode_picture(data, image_size=(16, 16))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePictureError, match="does not exist"):
        decode_picture(tmp_path / "gone.jpg", image_size=(16, 16))


def test_a_decompression_bomb_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("began to decode"))
    bomb = _png_header(30_000, 30_000)
    with pillow_limit_lifted(), pytest.raises(UnreadablePictureError, match="30000x30000 pixels are more than max_pix"):
        decode_picture(bomb, image_size=(64, 64))
    with pytest.raises(UnreadablePictureError, match=r"too large \(more than [0-9,]+ pixels\)"):  # by Pillow's limit
        decode_picture(bomb, image_size=(64, 64))


def test_a_photo_with_several_pictures_in_one_file() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    data = _encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert decode_picture(data, image_size=(8, 8))[0, 0, 0] > 200


def test_max_pixels_is_the_only_limit() -> None:
    data, limit = _encoded(Image.new("L", (100, 100))), Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadablePictureError, match="max_pixels=9999"):
        decode_picture(data, image_size=(8, 8), max_pixels=9_999)
    assert decode_picture(data, image_size=(8, 8), max_pixels=10_000).shape == (8, 8, 3)
    with pillow_limit_lifted():
        assert Image.MAX_IMAGE_PIXELS is None
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("mode", "color", "size", "channels"),
    [("L", 9, (31, 7), 1), ("RGB", (9, 9, 9), (1, 1), 3), ("RGBA", (9, 9, 9, 99), (2, 3), 4), ("1", 1, (3, 2), 1)],
)
def test_a_whole_picture_keeps_its_size_and_its_kind(mode, color, size, channels) -> None:
    pixels = decode_whole(_encoded(Image.new(mode, size, color)))
    assert pixels.shape == (size[1], size[0], channels)
    assert pixels.dtype == np.uint8


def test_a_whole_picture_is_upright_and_no_bomb() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode_whole(_encoded(_halves("RGB", (255, 0, 0), (0, 0, 255)), exif=exif))
    assert pixels.shape == (32, 16, 3)
    assert (tuple(pixels[0, 8]), tuple(pixels[31, 8])) == ((255, 0, 0), (0, 0, 255))
    with pytest.raises(UnreadablePictureError, match="max_pixels"), pillow_limit_lifted():
        decode_whole(_png_header(50_000, 50_000))


def test_every_damage_has_a_plain_reason() -> None:
    """Whatever is cut off or changed of a file of any format, no word of Pillow or of its libraries is passed on."""
    plain = "an empty file|damaged|damaged, or of a kind of .*|not a picture, .*|truncated: .*|too (small|large) .*|"
    plain += ".*have no known range; .*|decoding it takes more memory than there is"
    image, rng = Image.effect_noise((40, 40), 50), np.random.default_rng(0)
    reasons = set()
    for kind in known_formats():
        whole = _encoded(image.convert("RGB"), kind)
        for number in range(40):
            data = bytearray(whole[: int(rng.integers(len(whole)))] if number % 2 else whole)
            for place in rng.integers(min(len(data), 200), size=3 * (number % 4)) if data else ():
                data[place] = rng.integers(256)
            try:
                decode_picture(bytes(data), image_size=(8, 8), max_pixels=10_000)
            except UnreadablePictureError as error:
                reasons.add(str(error))
    assert [reason for reason in reasons if not re.fullmatch(plain, reason)] == []
    assert {"damaged", _TRUNCATED} <= reasons
