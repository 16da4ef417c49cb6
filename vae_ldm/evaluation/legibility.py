"""What can still be read on a picture: barcodes by zxing-cpp, text by an OCR engine, each where it is installed."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

READING_EXTRA = 'pip install "vae_ldm[reading]"'

Read = Callable[[np.ndarray], list[str]]
"""What stands on a picture uint8 [H, W, C], in a fixed order."""


@dataclass(frozen=True)
class Reader:
    """Something that reads pictures."""

    name: str
    what: str
    """What it reads, in the plural."""
    read: Read


def barcode_reader() -> Reader | None:
    """Reads barcodes of every kind; None where zxing-cpp is not installed."""
    zxing = _optional("zxingcpp")
    if zxing is None:
        return None

    def read(pixels: np.ndarray) -> list[str]:
        grey = np.ascontiguousarray(np.asarray(_image(pixels).convert("L")))
        return sorted({f"{code.format}: {code.text}" for code in zxing.read_barcodes(grey) if code.text})

    return Reader("zxing-cpp", "barcodes", read)


def text_reader() -> Reader | None:
    """Reads lines of text; None where rapidocr is not installed."""
    rapidocr = _optional("rapidocr")
    if rapidocr is None:
        return None
    engine = rapidocr.RapidOCR(params={"Global.log_level": "error"})

    def read(pixels: np.ndarray) -> list[str]:
        found = engine(np.asarray(_image(pixels).convert("RGB"))[..., ::-1])  # as OpenCV has it, blue first
        return [" ".join(text.split()) for text in found.txts or ()]

    return Reader("rapidocr", "lines of text", read)


def kept_share(before: list[str], after: list[str]) -> float:
    """The share of what was read before that is still read, exactly, in [0, 1]."""
    return sum(text in after for text in before) / len(before)


def character_error_rate(before: list[str], after: list[str]) -> float:
    """Characters to be changed to make what is read after what was read before, a character before: 0 is equal."""
    from torchmetrics.functional.text import char_error_rate

    return char_error_rate(" ".join(after), " ".join(before)).item()


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
