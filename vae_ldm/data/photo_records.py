"""Photos that a user names, as records: a folder of any layout, or one file. Neither decodes them nor imports torch."""

import posixpath
from collections.abc import Callable
from pathlib import Path

from vae_ldm.data.image_folder import SPLIT_NAMES
from vae_ldm.data.listing import existing_folder, find_photos, tell_left_out
from vae_ldm.data.metadata import CAPTION_COLUMNS, read_metadata
from vae_ldm.data.names import as_text
from vae_ldm.data.sources import Record


def photo_records(
    photos: Path | str,
    *,
    caption_column: str | None = None,
    on_unreadable_folder: Callable[[str], None] | None = None,
) -> list[Record]:
    """Every picture below a folder, or the one file: all splits, in the order of their names; nothing is decoded.

    An id is the path relative to the folder, as text. The class is the name of the picture's own folder, unless that is
    the folder itself or one of a split (`train/dress/1.jpg` is a dress, `train/1.jpg` nothing). Class and caption of a
    metadata file win; without `caption_column` its column `caption` or `text` is taken where there is one. What else
    lies in the folder is told where it could be a photo. `on_unreadable_folder` hears of each folder below it that
    cannot be looked into, by its name relative to the folder.

    Raises DataError where the path does not exist, or holds no picture.
    """
    try:
        path = Path(photos).expanduser()
    except RuntimeError:  # ~NAME of an unknown user, which existing_folder explains
        path = Path(photos)
    if path.is_file():
        return [Record(as_text(path.name), path)]
    found = find_photos(existing_folder(path))
    tell_left_out(found)
    if on_unreadable_folder is not None:
        for name in found.unreadable:
            on_unreadable_folder(name)
    described = read_metadata(found.folder, found.metadata, caption_column or CAPTION_COLUMNS)
    return [
        described.get(name) or Record(as_text(name), found.folder / name, _folder_label(name))
        for name in found.pictures
    ]


def _folder_label(name: str) -> str | None:
    folder = posixpath.basename(posixpath.dirname(name))
    return as_text(folder) if folder and folder.lower() not in SPLIT_NAMES else None
