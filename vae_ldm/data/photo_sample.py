"""Some photos of a folder, of any layout, at one size: for measuring, not for training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vae_ldm.data.decoding import UnreadablePictureError, decode_picture, pillow_limit_lifted, upright_size
from vae_ldm.data.listing import existing_folder, find_photos, tell_left_out
from vae_ldm.data.names import as_text
from vae_ldm.data.sources import Record
from vae_ldm.errors import DataError
from vae_ldm.text import counted, shown

MAX_DEFAULT_SIDE = 512


@dataclass(frozen=True, eq=False)
class PhotoSample:
    """Photos evenly spread over a folder in the order of their names."""

    images: np.ndarray
    """uint8 [N, side, side, C]."""
    ids: list[str]
    """N file names relative to the folder."""
    records: list[Record]
    """N records of the files."""
    unreadable: list[tuple[str, str]]
    """Id and reason of each of those chosen that cannot be read."""
    num_in_folder: int
    unreadable_folders: list[str]
    """Folders below it that cannot be looked into."""

    @property
    def num_unreadable(self) -> int:
        """How many of those chosen cannot be read."""
        return len(self.unreadable)


def sample_photos(
    folder: Path | str, count: int, *, channels: int, multiple_of: int, side: int | None = None
) -> PhotoSample:
    """At most `count` photos below `folder`, cropped to squares of `side` px, which `multiple_of` divides.

    Side None is the photos' own median shorter side, at most 512, so that few are enlarged. Photos that cannot be read
    are passed over. Raises DataError where there are none, or the side does not fit.
    """
    place = existing_folder(folder)
    photos = find_photos(place)
    tell_left_out(photos)
    names = photos.pictures
    if side is not None and side % multiple_of:
        nearest = max(multiple_of, round(side / multiple_of) * multiple_of)
        raise DataError(f"a side of {side} px is not divisible by {multiple_of}; the nearest that is: {nearest}")
    chosen = [names[row] for row in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)]
    with pillow_limit_lifted():
        if side is None:
            shorter = np.median([_shorter_side(place / name) for name in chosen])
            side = max(multiple_of, int(min(shorter, MAX_DEFAULT_SIDE)) // multiple_of * multiple_of)
        found, read, unreadable = {}, [], []
        for name in chosen:
            try:
                found[as_text(name)] = decode_picture(place / name, image_size=(side, side), channels=channels)
            except UnreadablePictureError as error:
                unreadable.append((as_text(name), str(error)))
            else:
                read.append(Record(as_text(name), place / name))
    if not found:
        last = ": ".join(map(shown, unreadable[-1]))
        raise DataError(f"none of {counted(len(chosen), 'picture')} in {folder} can be read ({last})")
    return PhotoSample(np.stack(list(found.values())), list(found), read, unreadable, len(names), photos.unreadable)


def _shorter_side(file: Path) -> int:
    try:
        return min(upright_size(file))
    except UnreadablePictureError:  # decode_picture will say why
        return MAX_DEFAULT_SIDE
