"""A folder with every odd file and name that people's photos come with, and what is to become of each."""

import io
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

NUM_GOOD = 8
"""Ordinary photos in each of the classes `dent` and `scratch`."""


@dataclass(frozen=True)
class OddPhotos:
    """The folder, and the names below it by what becomes of them; names are as `os.fsdecode` gives them."""

    path: Path
    readable: set[str] = field(default_factory=set)
    """Photos that can be decoded."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files named like photos that cannot be decoded, and a part of the reason."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files and folders that are not listed as photos but named to the user, and a part of the reason."""
    untold: set[str] = field(default_factory=set)
    """Hidden files and what is no photo: nothing is said of them."""


def build_odd_photos(folder: Path) -> OddPhotos:
    """Fill `folder`/photos; what its links lead to lies beside it, in `folder`/pool."""
    odd = OddPhotos(folder / "photos")
    for name in ("dent", "scratch"):
        (odd.path / name).mkdir(parents=True)
        for number in range(NUM_GOOD):
            _used(odd, f"{name}/{number}.jpg", _photo(number + NUM_GOOD * (name == "dent")))
    _add_kinds(odd)
    _add_names(odd)
    _add_unreadable(odd)
    _add_links_and_pipes(odd, folder / "pool")
    _add_other_files(odd)
    return odd


def _photo(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A photo [height, width] = size reversed, of a smooth random pattern."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def _used(odd: OddPhotos, name: str, image: Image.Image, **options: object) -> None:
    (odd.path / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(odd.path / name, **options)
    odd.readable.add(name)


def _add_kinds(odd: OddPhotos) -> None:
    """Photos that can be read, of unusual kinds."""
    photo = _photo(100)
    deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    _used(odd, "dent/cmyk.jpg", photo.convert("CMYK"))
    _used(odd, "dent/sixteen-bits.png", Image.fromarray(deep))
    _used(odd, "dent/thermal.tif", Image.fromarray((7000 + deep.astype(np.int32) // 33).astype(np.uint16)))
    palette = photo.quantize(16)
    _used(odd, "dent/palette.png", palette, transparency=3)
    _used(odd, "dent/alpha.webp", photo.convert("RGBA"), lossless=True)
    exif = Image.Exif()
    exif[0x112] = 6
    _used(odd, "dent/turned.jpg", photo.transpose(Image.Transpose.ROTATE_90), exif=exif)
    _used(odd, "dent/profile.jpg", photo, icc_profile=other_profile())
    _used(odd, "dent/srgb.jpg", photo, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 2**21, zip=True)
    _used(odd, "dent/two-megabytes-of-text.png", photo, pnginfo=text)
    for suffix in ("gif", "webp"):
        _used(odd, f"dent/animated.{suffix}", photo, save_all=True, append_images=[_photo(101), _photo(102)])
    _used(odd, "dent/panorama.jpg", _photo(103, (17000, 20)))
    _used(odd, "dent/UPPER.JPG", photo)


def other_profile() -> bytes:
    """An ICC profile of red, green and blue whose primaries are swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    num_tags = int.from_bytes(profile[128:132], "big")
    entries = {bytes(profile[at : at + 4]): at + 4 for at in range(132, 132 + 12 * num_tags, 12)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    profile[red : red + 8], profile[blue : blue + 8] = profile[blue : blue + 8], profile[red : red + 8]
    return bytes(profile)


def _add_names(odd: OddPhotos) -> None:
    """Photos that can be read, of unusual names."""
    photo = _photo(200)
    for name in ("1.jpg", "1.jpg.webp", "1.jpg.png", "\x1b[31mred.png", "two\nlines.png", " space .png", "[b].png"):
        _used(odd, f"scratch/{name}", photo)
    _used(odd, "scratch/=1+1.png", photo)
    _used(odd, "scratch/<img src=x>.png", photo)
    _used(odd, "scratch/Käse 写真 📷.png", photo)
    for length in (247, 248, 252, 255):
        _used(odd, f"scratch/{'n' * (length - 4)}.png", photo)
    _used(odd, f"scratch/{'ä' * 124}.png", photo)
    latin = [
        b"scratch/caf\xe9.png",
        rb"scratch/caf\xe9.png",
        *(b"besch\xe4digt/%d.png" % number for number in range(3)),
    ]
    for raw in latin:  # the second is UTF-8: a backslash, an x, an e and a 9
        _used(odd, os.fsdecode(raw), photo)


def _add_unreadable(odd: OddPhotos) -> None:
    """Files named like photos that cannot be read."""
    jpeg, stream = _encoded(_photo(300), "JPEG"), io.BytesIO()
    Image.fromarray(np.zeros((20, 20), np.float32)).save(stream, "TIFF")
    files = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated: the end"),
        "empty.jpg": (b"", "an empty file"),
        "text.jpg": (b"not a picture at all\n" * 20, "not a picture"),
        "heic-inside.jpg": (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC, whatever its name"),
        "huge.png": (png_header(100_000, 100_000), "more than max_pixels"),
        "line.png": (png_header(70_000_000, 1), "too small (70000000x1"),
        "dot.png": (_encoded(Image.new("RGB", (1, 1)), "PNG"), "too small (1x1"),
        "float.tif": (stream.getvalue(), "floating-point"),
    }
    for name, (content, reason) in files.items():
        (odd.path / "dent" / name).write_bytes(content)
        odd.unreadable[f"dent/{name}"] = reason


def _encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A whole PNG file of under 100 bytes that claims to have this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def _add_links_and_pipes(odd: OddPhotos, pool: Path) -> None:
    pool.mkdir()
    for number in range(2):
        _photo(400 + number).save(pool / f"{number}.png")
        odd.readable.add(f"chip/{number}.png")
    (odd.path / "chip").symlink_to("../pool")
    (odd.path / "dent" / "linked.jpg").symlink_to("../scratch/0.jpg")
    odd.readable.add("dent/linked.jpg")
    links = {
        "gone.jpg": ("nowhere.jpg", "a link to nothing"),
        "itself.jpg": ("itself.jpg", "leads back to itself"),
        "up": ("..", "a folder that it lies in"),
        "endless.jpg": ("/dev/zero", "not a regular file"),
    }
    for name, (target, reason) in links.items():
        (odd.path / "dent" / name).symlink_to(target)
        odd.left_out[f"dent/{name}"] = reason
    os.mkfifo(odd.path / "dent" / "pipe.jpg")
    odd.left_out["dent/pipe.jpg"] = "not a regular file"


def _add_other_files(odd: OddPhotos) -> None:
    """Folders of the system's own, photos of foreign formats, and files that are no photos."""
    for name in ("dent/@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information", "__MACOSX"):
        (odd.path / name / "0.jpg").mkdir(parents=True)
        _photo(500, (24, 24)).save(odd.path / name / "0.jpg" / "SYNOPHOTO_THUMB_XL.jpg")
        odd.left_out[name] = "system"
    for name in ("dent/IMG_1.HEIC", "scratch/IMG_2.heic", "dent/raw.CR2"):
        (odd.path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
        odd.left_out[name] = "convert them"
    for name in (
        ".DS_Store",
        "dent/._0.jpg",
        ".trash",
        "Thumbs.db",
        "dent/notes.txt",
        "dent/video.mp4",
        "dent/no-suffix",
    ):
        (odd.path / name).write_bytes(b"\0\0")
        odd.untold.add(name)
