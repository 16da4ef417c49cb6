"""Pictures of several sources as one: each lies in a cache of its own, and an index says which belong together."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.data.pictures import Pictures, PictureSplits, open_pictures
from vae_ldm.errors import DataError
from vae_ldm.files import safe_name
from vae_ldm.models.joined_pictures import one_after_the_other
from vae_ldm.stored_json import StoredKind, content_of

_INDEX = "mixture.json"
_KIND = StoredKind(newest=1, digest_from=1, cure="delete this file, and it is made anew from the photos")
_PLAIN_CACHE = ("index.json", "train.npy", "validation.npy")
"""What a recipe of one source has left in the same folder."""


@dataclass(frozen=True)
class _SourceEntry:
    """One source of the index."""

    folder: str
    asked: dict[str, Any]
    """What the recipe says of the source."""


@dataclass(frozen=True)
class _MixtureIndex:
    """What mixture.json holds."""

    sources: list[_SourceEntry]


def source_folder(cache_dir: Path, key: str) -> Path:
    """The folder for the pictures of a source with this `source_key`, wherever it stands among the sources.

    Its parent is the source's own, for the list of its unreadable photos.
    """
    return cache_dir / f"source-{key[:16]}" / "pictures"


def folders_of_mixture(cache_dir: Path) -> list[tuple[Path, dict[str, Any]]] | None:
    """The folder of each source that was decoded last, and what the recipe said of it; None where there is no mixture.

    Raises DataError where the index is damaged.
    """
    file = cache_dir / _INDEX
    try:
        index = _KIND.typed(file, _MixtureIndex, content_of(_KIND.read(file)))
    except FileNotFoundError:
        return None
    return [(cache_dir / safe_name(entry.folder, file) / "pictures", entry.asked) for entry in index.sources]


def keep_mixture(cache_dir: Path, sources: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Write down which source's pictures lie where, and delete what no source has any more."""
    entries = [{"folder": folder.parent.name, "asked": asked} for folder, asked in sources]
    file, content = cache_dir / _INDEX, {"sources": json.loads(json.dumps(entries))}
    try:
        is_kept = content_of(_KIND.read(file)) == content
    except (FileNotFoundError, DataError):
        is_kept = False
    if not is_kept:
        _KIND.write(file, content)
    used = {entry["folder"] for entry in entries}
    for stale in cache_dir.glob("source-*"):
        if stale.name not in used:
            shutil.rmtree(stale)
    for name in _PLAIN_CACHE:
        (cache_dir / name).unlink(missing_ok=True)


def open_mixture(cache_dir: Path) -> PictureSplits | None:
    """The pictures that a run has learned from, of one source or of several; None where none are decoded.

    Raises DataError where they are not as they were written.
    """
    folders = folders_of_mixture(cache_dir)
    if folders is None:
        return open_pictures(cache_dir)
    found = [open_pictures(folder) for folder, _ in folders]
    whole = [splits for splits in found if splits is not None]
    if len(whole) < len(found):
        raise DataError(f"{cache_dir}: pictures of a source are missing; train the run again to decode them")
    return joined(whole)


def joined(sources: Sequence[PictureSplits]) -> PictureSplits:
    """All pictures of the sources, source by source; classes of one name are one class.

    An id begins with the source's place: `sources[0]/dent/3.jpg`.
    """
    train = joined_split([source.train for source in sources])
    validation = joined_split([source.validation for source in sources])
    unreadable = [f"sources[{place}]/{line}" for place, source in enumerate(sources) for line in source.unreadable]
    key = hashlib.sha256(json.dumps([source.key for source in sources]).encode()).hexdigest()
    return PictureSplits(train, validation, unreadable, key)


def joined_split(splits: Sequence[Pictures]) -> Pictures:
    """All pictures of one split of each source."""
    class_names = list(dict.fromkeys(chain.from_iterable(split.class_names for split in splits)))
    number = {name: place for place, name in enumerate(class_names)}
    labels = []
    for split in splits:
        own = np.array([number[name] for name in split.class_names] + [-1], np.int64)
        labels.append(own[split.labels])  # -1, no class, is the last one
    return Pictures(
        one_after_the_other([split.images for split in splits]),
        np.concatenate(labels),
        [caption for split in splits for caption in split.captions],
        [f"sources[{place}]/{name}" for place, split in enumerate(splits) for name in split.ids],
        class_names,
        tuple(len(split) for split in splits),
    )
