"""Why a photo cannot be read, in plain words: decoders have their own, which say little to whoever took the photo."""

import re

from PIL import Image, UnidentifiedImageError

from vae_ldm.errors import DataError

NO_PICTURE = "not a picture, or of a format that is not supported"
_TRUNCATED = "truncated: the end of the file is missing"
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")
"""What a HEIC file holds at byte 8 (ISO/IEC 23008-12, annex B)."""
_KINDS = (
    (r"truncated|only got|reached eof|failed to read next frame", _TRUNCATED),
    (r"unsupported|not supported|not implemented", "damaged, or of a kind of its format that is not supported"),
)
"""What the words of Pillow and its libraries mean, the first that is found; all others are about damaged pixels."""


def why_unreadable(error: Exception, start: bytes | None) -> str:
    """One plain reason for the error of a decoder; `start` is the first 12 bytes of the file, None where unknown.

    What the operating system says ("Permission denied"), and our own words, stay as they are.
    """
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, MemoryError):  # also Pillow's word for a line of 2**31 bits
        return "decoding it takes more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if start == b"":
        return "an empty file"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large (more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels)"
    if isinstance(error, UnidentifiedImageError):
        is_heic = start is not None and start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS
        return "HEIC, whatever its name; convert it to JPEG" if is_heic else NO_PICTURE
    said = str(error)
    return next((reason for words, reason in _KINDS if re.search(words, said, re.IGNORECASE)), "damaged")
