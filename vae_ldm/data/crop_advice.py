"""A word of warning where cropping to the run's size throws a part of a picture away."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from vae_ldm.choices import Resize
from vae_ldm.data.decoding import UnreadablePictureError, Unusable, pillow_limit_lifted, upright_size
from vae_ldm.data.sources import PictureSource, Record

_NUM_PICTURES = 32
_LITTLE = 0.6
NEARLY_ALL = 0.95
"""A crop that keeps so much of a photo is not worth a word."""


def crop_advice(source: PictureSource, image_size: tuple[int, int], resize: Resize, *, key: str = "data") -> str | None:
    """A line about how little of a typical picture a crop to `image_size` (height, width) keeps; None where it is 60 %.

    Read from the headers of the first training pictures that are files. `key` is where the recipe writes the source.
    """
    sizes = list(_sizes(islice(source.records("train"), _NUM_PICTURES)))
    if resize != "crop" or not sizes:
        return None
    height, width = image_size
    kept = float(np.median([seen_share(size, image_size) for size in sizes]))
    if kept >= _LITTLE:
        return None
    typical = sizes[int(np.argsort([one[0] / one[1] for one in sizes])[len(sizes) // 2])]
    line = (
        f"{key}: cropping to {height} high and {width} wide keeps {100 * kept:.0f} % of a typical picture, which is "
        f"{typical[0]} high and {typical[1]} wide"
    )
    turned = float(np.median([seen_share(size, (width, height)) for size in sizes]))
    if turned >= _LITTLE:
        return f"{line}; image_size is [height, width], and [{width}, {height}] keeps {100 * turned:.0f} %"
    return f"{line}; {key}.resize=pad keeps all of it"


def unseen_advice(records: Sequence[Record], image_size: tuple[int, int], resize: Resize) -> str | None:
    """A line about how much of a typical photo the crop to `image_size` shows; None where it is nearly all.

    Read from the headers of some of the photos, evenly spread.
    """
    chosen = np.linspace(0, len(records) - 1, min(_NUM_PICTURES, len(records))).astype(int)
    shares = [seen_share(size, image_size) for size in _sizes(records[row] for row in chosen)]
    if resize != "crop" or not shares or np.median(shares) >= NEARLY_ALL:
        return None
    height, width = image_size
    return (
        f"the model sees the middle {100 * np.median(shares):.0f} % of a typical photo, cropped to {height}x{width}: "
        "what lies outside is not compared; a run with data.resize=pad sees all of it"
    )


def seen_share(size: tuple[int, int], image_size: tuple[int, int]) -> float:
    """Share of a picture's area, in (0, 1], that the largest crop of `image_size`'s proportions has."""
    proportion, wanted = size[0] / size[1], image_size[0] / image_size[1]
    return min(proportion, wanted) / max(proportion, wanted)


def _sizes(records: Iterable[Record]) -> Iterator[tuple[int, int]]:
    """Height and width of the pictures that are files, upright; what cannot be opened is passed over."""
    for record in records:
        if isinstance(record.picture, Unusable):
            continue
        if not isinstance(record.picture, Path):
            return
        try:
            with pillow_limit_lifted():
                size = upright_size(record.picture)
        except UnreadablePictureError:  # reading the picture will say why
            continue
        yield size
