"""Stores the pictures of a source: they are decoded, checked and resized once, and every later run reads arrays."""

import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vae_ldm.data.decoding import pillow_limit_lifted
from vae_ldm.data.decoding_ahead import decode_all
from vae_ldm.data.held_out import is_held_out, misplaced
from vae_ldm.data.listing import tell
from vae_ldm.data.picture_remarks import DecodingRemarks, remarks_on_classes
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.picture_writer import PicturesWriter
from vae_ldm.data.pictures import Pictures, PictureSplits, splits_of
from vae_ldm.data.sources import SPLITS, PictureSource, Record, Split, sort_class_names
from vae_ldm.data.stored_pictures import FORMAT, DamagedPicturesError, StoredPictures, read_stored
from vae_ldm.data.unreadable import Unreadable, left_out_lines
from vae_ldm.errors import DataError
from vae_ldm.files import naming
from vae_ldm.text import counted

Progress = Callable[[int, int | None], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """A first look at a source, for a dry run."""

    pictures: Pictures
    num_train: int | None
    """None where only reading everything would tell."""
    num_validation: int | None
    unreadable: list[str]


@dataclass(frozen=True)
class Count:
    """How many pictures of a source a run trains on, is judged on and leaves out."""

    num_train: int
    num_validation: int
    num_unreadable: int


def class_caption(caption_template: str, class_name: str) -> str:
    """The prompt that stands for a class: the template with its name, underscores read as spaces."""
    return caption_template.replace("{label}", class_name.replace("_", " "))


def load_pictures(
    source: PictureSource,
    cache_dir: Path,
    settings: PictureSettings,
    *,
    progress: Progress | None = None,
    is_whole: bool = True,
) -> PictureSplits:
    """Both splits of a source, from `cache_dir` where it holds them already, else decoded into it first.

    Where the source has no validation split, pictures are held out by a hash of their id, and of each class of two or
    more pictures at least one is held out and one is trained on; neither split is ever empty. The cache appears whole
    or not at all, and is made anew when the data, its description or the transform changes, or when it is damaged; a
    cache of version 0.1.0 is read as it is. Pictures that cannot be used are listed in `unreadable.txt` beside the
    cache.

    `progress(done, total)` is called after each picture, with a total of None where it is not known. Of a source that
    is not the whole of what is learned, nothing is said about classes.

    Raises DataError when more of the pictures than the settings allow cannot be used, or fewer than 2 are left.
    """
    source_keys = {_source_key(number, source, settings): number for number in range(1, FORMAT + 1)}
    stored = _read_or_tell(cache_dir)
    tell(source.remarks())
    if stored is None or source_keys.get(stored.source_key) != stored.format:
        with (
            _appearing_whole(cache_dir) as folder,
            closing(PicturesWriter(folder, settings.image_size, settings.channels)) as writer,
        ):
            unreadable = _decode_into(writer, source, settings, progress)
            both_sides = stored is None or stored.classes_on_both_sides  # an older run keeps its split
            if both_sides and source.num_records("validation") == 0:
                to_validation, to_train = misplaced(writer.labels("train"), writer.labels("validation"))
                if to_validation or to_train:
                    writer.move({"train": to_validation, "validation": to_train})
            unreadable.write(_list_file(cache_dir))
            if len(writer) < 2:
                raise DataError(_too_few(source.name, len(writer), list(unreadable.each())))
            source_key = _source_key(FORMAT, source, settings)
            writer.finish(
                source_key,
                settings.as_stored(),
                source.class_names,
                list(unreadable.each()),
                classes_on_both_sides=both_sides,
                previous=stored,
            )
        stored = read_stored(cache_dir, checked=False)
        assert stored is not None, "a cache just written cannot be read"
    splits = splits_of(stored)
    if is_whole:
        tell_of_classes(splits, settings.caption_template)
    _check_unreadable(source.name, splits, settings.max_unreadable_share, _list_file(cache_dir))
    return splits


def tell_of_classes(splits: PictureSplits, caption_template: str) -> None:
    """Tell which classes a model cannot learn, or cannot tell apart."""
    prompts = [class_caption(caption_template, name) for name in splits.train.class_names]
    tell(remarks_on_classes(splits, prompts))


def cached_pictures(cache_dir: Path, settings: PictureSettings) -> PictureSplits | None:
    """What `load_pictures` left in `cache_dir` under these settings; None where it left nothing.

    It serves where the source of the pictures is gone. A cache of version 0.1.0 keeps no settings, so that only its
    size and channels are compared.
    Raises DamagedPicturesError where the cache is not as it was written.
    """
    stored = read_stored(cache_dir)
    if stored is None:
        return None
    shape = stored.images["train"].shape
    fits = tuple(shape[1:3]) == settings.image_size and settings.channels in (None, shape[3])
    made_so = stored.format == 1 or stored.index["settings"] == json.loads(json.dumps(settings.as_stored()))
    return splits_of(stored) if fits and made_so else None


def inspect_pictures(source: PictureSource, settings: PictureSettings, *, num_pictures: int = 8) -> Preview:
    """The first few training pictures, decoded in memory, and how many there are; nothing is written.

    Channels that the settings leave open are decided by these few. Raises DataError where none of them can be used, or
    none is left to train on.
    """
    transform = settings.transform
    tell(source.remarks())
    remarks = DecodingRemarks()
    found: list[tuple[Record, np.ndarray]] = []
    unreadable = Unreadable()
    with pillow_limit_lifted():
        for record in itertools.islice(source.records("train"), num_pictures):
            pixels = transform(record.picture, remarks)
            if isinstance(pixels, str):
                unreadable.add(record.id, pixels)
            else:
                found.append((record, pixels))
    if not found:
        raise DataError(_too_few(source.name, 0, list(unreadable.each())))
    tell(remarks.lines())
    widest = max(pixels.shape[-1] for _, pixels in found)
    images = np.stack([np.repeat(pixels, widest // pixels.shape[-1], axis=-1) for _, pixels in found])
    class_names = source.class_names
    if class_names is None:
        class_names = sort_class_names(record.label for record, _ in found)
    labels = [class_names.index(record.label) if record.label is not None else -1 for record, _ in found]
    captions = [_caption(record, settings.caption_template) for record, _ in found]
    ids = [record.id for record, _ in found]
    num_train, num_validation = source.num_records("train"), source.num_records("validation")
    if num_validation == 0 and num_train is not None:
        num_validation = max(1, round(num_train * settings.validation_fraction))
        num_train -= num_validation
    if num_train == 0:
        raise DataError(_too_few(source.name, len(found), list(unreadable.each())))
    pictures = Pictures(images, np.array(labels, np.int64), captions, ids, class_names)
    return Preview(pictures, num_train, num_validation, list(unreadable.each()))


def look_through(
    source: PictureSource,
    cache_dir: Path,
    settings: PictureSettings,
    *,
    most: int = 20_000,
    progress: Progress | None = None,
) -> Count | None:
    """Tell which pictures of a source cannot be used, and raise what `load_pictures` would raise over them.

    Returns what `load_pictures` would keep. Pictures that `cache_dir` holds already are not decoded again. Of more than
    `most` pictures that many are decoded, evenly spread, and None is returned. Nothing is written.
    """
    stored = _read_or_tell(cache_dir)
    if stored is not None and stored.source_key == _source_key(stored.format, source, settings):
        splits = splits_of(stored)
        return Count(len(splits.train), len(splits.validation), len(splits.unreadable))
    records = [(split, record) for split in SPLITS for record in source.records(split)]
    chosen = records[:: -(-len(records) // most)]
    has_validation = source.num_records("validation") != 0
    unreadable = Unreadable()
    kept: dict[Split, list[tuple[str, str | None]]] = {"train": [], "validation": []}
    with pillow_limit_lifted():
        decoded = decode_all(chosen, settings.transform, DecodingRemarks())
        for done, (split, record, pixels) in enumerate(decoded, start=1):
            if isinstance(pixels, str):
                unreadable.add(record.id, pixels)
            else:
                kept[_side(split, record, settings, has_validation)].append((record.id, record.label))
            if progress is not None:
                progress(done, len(chosen))
    lines = list(unreadable.each())
    if len(chosen) - len(lines) < 2:
        raise DataError(_too_few(source.name, len(chosen) - len(lines), lines))
    some = "" if len(chosen) == len(records) else f", of {len(records):,} evenly spread,"
    _check_share(source.name, lines, len(chosen), settings.max_unreadable_share, some=some)
    if some:
        return None
    train, validation = len(kept["train"]), len(kept["validation"])
    if not has_validation and (stored is None or stored.classes_on_both_sides):
        to_validation, to_train = misplaced(kept["train"], kept["validation"])
        moved = len(to_validation) - len(to_train)
        train, validation = train - moved, validation + moved
    return Count(train, validation, len(lines))


def _side(split: Split, record: Record, settings: PictureSettings, has_validation: bool) -> Split:
    """The split that a record belongs to, also where the source has no validation split."""
    held_out = not has_validation and is_held_out(record.id, settings.validation_fraction)
    return "validation" if held_out else split


def source_key(source: PictureSource, settings: PictureSettings) -> str:
    """What a cache of the newest format follows from: equal keys, the same photos under the same settings."""
    return _source_key(FORMAT, source, settings)


def _source_key(number: int, source: PictureSource, settings: PictureSettings) -> str:
    """What a cache of format `number` follows from."""
    description = {"format": number, "source": source.description(), **settings.as_stored()}
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _read_or_tell(cache_dir: Path) -> StoredPictures | None:
    """The cache that is there; None where there is none, or a damaged one, which is told."""
    try:
        return read_stored(cache_dir)
    except DamagedPicturesError as error:
        _log.warning("%s: %s; the photos are decoded anew", cache_dir, error.what)
        return None


@contextmanager
def _appearing_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write into that takes the given name, and the place of what had it, only once all went well."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with naming(folder, partial):
        partial.mkdir(parents=True)
        try:
            yield partial
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _decode_into(
    writer: PicturesWriter,
    source: PictureSource,
    settings: PictureSettings,
    progress: Progress | None,
) -> Unreadable:
    """Decode every picture of a source; returns those that cannot be used."""
    sizes = {split: source.num_records(split) for split in SPLITS}
    has_validation = sizes["validation"] != 0
    total = None if None in sizes.values() else sum(size or 0 for size in sizes.values())
    records = ((split, record) for split in SPLITS if sizes[split] != 0 for record in source.records(split))
    unreadable, remarks = Unreadable(), DecodingRemarks()
    with pillow_limit_lifted():
        for done, (split, record, pixels) in enumerate(decode_all(records, settings.transform, remarks), start=1):
            if isinstance(pixels, str):
                unreadable.add(record.id, pixels)
            else:
                caption = _caption(record, settings.caption_template)
                side = _side(split, record, settings, has_validation)
                writer.append(side, pixels, name=record.id, label=record.label, caption=caption)
            if progress is not None:
                progress(done, total)
    tell(remarks.lines())
    return unreadable


def _caption(record: Record, caption_template: str) -> str:
    if record.caption or record.label is None:
        return record.caption or ""
    return class_caption(caption_template, record.label)


def _list_file(cache_dir: Path) -> Path:
    return cache_dir.with_name("unreadable.txt")


def _check_unreadable(name: str, splits: PictureSplits, max_share: float, list_file: Path) -> None:
    total = len(splits.unreadable) + len(splits.train) + len(splits.validation)
    _check_share(name, splits.unreadable, total, max_share, list_file=list_file)


def _check_share(
    name: str,
    unreadable: list[str],
    total: int,
    max_share: float,
    *,
    some: str = "",
    list_file: Path | None = None,
) -> None:
    """Tell what cannot be used of `total` pictures, or raise DataError where it is too large a share of them.

    `some` says what the pictures are of all there are; `list_file` holds the whole list.
    """
    if not unreadable:
        return
    found = f"{len(unreadable):,} of {counted(total, 'picture')}{some} in {name} cannot be used"
    if len(unreadable) > max_share * total:
        listed = "" if list_file is None else f"the whole list is in {list_file}; "
        raise DataError(
            f"{found}, more than max_unreadable_share {max_share:g} allows: {examples(unreadable)}; "
            f"{listed}mend or delete them, or raise data.max_unreadable_share"
        )
    for line in left_out_lines(unreadable):
        _log.warning("%s", line)
    _log.warning("%s%s", found, "" if list_file is None else f"; all are listed in {list_file}")


def _too_few(name: str, num_readable: int, unreadable: list[str]) -> str:
    total = counted(num_readable + len(unreadable), "picture")
    cause = f" ({examples(unreadable)})" if unreadable else ""
    return f"{num_readable} of {total} in {name} can be used{cause}; at least 2 are needed, one to validate on"


def examples(unreadable: Sequence[str]) -> str:
    """The first few lines of a list of what cannot be used, as one."""
    return "; ".join(unreadable[:3]) + ("; ..." if len(unreadable) > 3 else "")
