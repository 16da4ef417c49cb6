"""From a source to pictures at rest: decoded, checked and resized once, then read back as arrays by every later run."""

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vae_ldm.data.decoding import Picture, Resize, UnreadablePictureError, decode_picture, pillow_limit_lifted
from vae_ldm.data.picture_writer import PicturesWriter
from vae_ldm.data.pictures import Pictures, PictureSplits, open_pictures
from vae_ldm.data.sources import SPLITS, PictureSource, Record, Split, sort_class_names
from vae_ldm.errors import DataError
from vae_ldm.files import naming, write_whole
from vae_ldm.text import counted

Progress = Callable[[int, int | None], None]

_FORMAT = 1  # raise it when the same recipe comes to give other pixels
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
class _Transform:
    """From a picture to pixels, or to the reason why there are none."""

    image_size: tuple[int, int]
    channels: int | None
    resize: Resize
    max_pixels: int

    def __call__(self, picture: Picture) -> np.ndarray | str:
        try:
            return decode_picture(picture, **asdict(self))
        except UnreadablePictureError as error:
            return str(error)


def class_caption(caption_template: str, class_name: str) -> str:
    """The prompt that stands for a class: the template with its name, underscores read as spaces."""
    return caption_template.replace("{label}", class_name.replace("_", " "))


def load_pictures(
    source: PictureSource,
    cache_dir: Path,
    *,
    image_size: tuple[int, int],
    channels: int | None = None,
    resize: Resize = "crop",
    max_pixels: int = 89_478_485,
    max_unreadable_share: float = 0.01,
    caption_template: str = "a photo of {label}",
    validation_fraction: float = 0.1,
    progress: Progress | None = None,
) -> PictureSplits:
    """Both splits of a source, from `cache_dir` where it holds them already, else decoded into it first.

    With `channels` None the pictures are grey when all of them are, else RGB. Where the source has no validation
    split, pictures are held out by a hash of their id; neither split is ever empty. The cache appears whole or not at
    all, and is made anew when the data, its description or the transform changes. Pictures that cannot be used are
    listed in `unreadable.txt` beside the cache.

    `progress(done, total)` is called after each picture, with a total of None where it is not known.

    Raises DataError when more than `max_unreadable_share` of the pictures cannot be used, or fewer than 2 are left.
    """
    transform = _Transform(image_size, channels, resize, max_pixels)
    description = {
        "format": _FORMAT,
        "source": source.description(),
        "transform": asdict(transform),
        "caption_template": caption_template,
        "validation_fraction": validation_fraction,
    }
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    splits = open_pictures(cache_dir, key)
    if splits is None:
        with _appearing_whole(cache_dir) as folder, closing(PicturesWriter(folder, image_size, channels)) as writer:
            unreadable = _decode_into(writer, source, transform, caption_template, validation_fraction, progress)
            _list_unreadable(_list_file(cache_dir), unreadable)
            if len(writer) < 2:
                raise DataError(_too_few(source.name, len(writer), unreadable))
            writer.finish(key, source.class_names, unreadable)
        splits = open_pictures(cache_dir, key)
        assert splits is not None, "a cache just written cannot be read"
    _check_unreadable(source.name, splits, max_unreadable_share, _list_file(cache_dir))
    return splits


def inspect_pictures(
    source: PictureSource,
    *,
    num_pictures: int = 8,
    image_size: tuple[int, int],
    channels: int | None = None,
    resize: Resize = "crop",
    max_pixels: int = 89_478_485,
    caption_template: str = "a photo of {label}",
    validation_fraction: float = 0.1,
) -> Preview:
    """The first few training pictures, decoded in memory, and how many there are; nothing is written.

    With `channels` None it goes by these few. Raises DataError when none of them can be used.
    """
    transform = _Transform(image_size, channels, resize, max_pixels)
    found: list[tuple[Record, np.ndarray]] = []
    unreadable: list[str] = []
    with pillow_limit_lifted():
        for record in itertools.islice(source.records("train"), num_pictures):
            pixels = transform(record.picture)
            if isinstance(pixels, str):
                unreadable.append(f"{record.id}: {pixels}")
            else:
                found.append((record, pixels))
    if not found:
        raise DataError(_too_few(source.name, 0, unreadable))
    widest = max(pixels.shape[-1] for _, pixels in found)
    images = np.stack([np.repeat(pixels, widest // pixels.shape[-1], axis=-1) for _, pixels in found])
    class_names = source.class_names
    if class_names is None:
        class_names = sort_class_names(record.label for record, _ in found)
    labels = [class_names.index(record.label) if record.label is not None else -1 for record, _ in found]
    captions = [_caption(record, caption_template) for record, _ in found]
    ids = [record.id for record, _ in found]
    num_train, num_validation = source.num_records("train"), source.num_records("validation")
    if num_validation == 0 and num_train is not None:
        num_validation = max(1, round(num_train * validation_fraction))
        num_train -= num_validation
    pictures = Pictures(images, np.array(labels, np.int64), captions, ids, class_names)
    return Preview(pictures, num_train, num_validation, unreadable)


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
    transform: _Transform,
    caption_template: str,
    validation_fraction: float,
    progress: Progress | None,
) -> list[str]:
    """Decode every picture of a source; returns a line for each that cannot be used."""
    sizes = {split: source.num_records(split) for split in SPLITS}
    has_validation = sizes["validation"] != 0
    total = None if None in sizes.values() else sum(size or 0 for size in sizes.values())
    records = ((split, record) for split in SPLITS if sizes[split] != 0 for record in source.records(split))
    unreadable = []
    with pillow_limit_lifted():
        for done, (split, record, pixels) in enumerate(_decode_all(records, transform), start=1):
            if isinstance(pixels, str):
                unreadable.append(f"{record.id}: {pixels}")
            else:
                if not has_validation and _is_held_out(record.id, validation_fraction):
                    split = "validation"
                caption = _caption(record, caption_template)
                writer.append(split, pixels, name=record.id, label=record.label, caption=caption)
            if progress is not None:
                progress(done, total)
    return unreadable


def _decode_all(
    records: Iterable[tuple[Split, Record]], transform: _Transform
) -> Iterator[tuple[Split, Record, np.ndarray | str]]:
    """Every record with its pixels, in order, decoded by threads (Pillow lets go of the interpreter) a little ahead."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = min(8, num_cores)  # each may hold a picture of max_pixels
    ahead: deque[tuple[Split, Record, Future[np.ndarray | str]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for split, record in records:
            ahead.append((split, record, pool.submit(transform, record.picture)))
            if len(ahead) > 2 * num_threads:
                split, record, pixels = ahead.popleft()
                yield split, record, pixels.result()
        for split, record, pixels in ahead:
            yield split, record, pixels.result()


def _is_held_out(name: str, validation_fraction: float) -> bool:
    """True for that share of names, whatever others there are: a picture added later moves no other one."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") < validation_fraction * 2**64


def _caption(record: Record, caption_template: str) -> str:
    if record.caption or record.label is None:
        return record.caption or ""
    return class_caption(caption_template, record.label)


def _list_file(cache_dir: Path) -> Path:
    return cache_dir.with_name("unreadable.txt")


def _list_unreadable(file: Path, unreadable: list[str]) -> None:
    if unreadable:
        write_whole(file, "\n".join(unreadable) + "\n")
    else:
        file.unlink(missing_ok=True)


def _check_unreadable(name: str, splits: PictureSplits, max_share: float, list_file: Path) -> None:
    num_unreadable = len(splits.unreadable)
    if num_unreadable == 0:
        return
    total = num_unreadable + len(splits.train) + len(splits.validation)
    found = f"{num_unreadable} of {counted(total, 'picture')} in {name} cannot be used"
    if num_unreadable > max_share * total:
        raise DataError(
            f"{found}, more than max_unreadable_share {max_share:g} allows: {examples(splits.unreadable)}; "
            f"the whole list is in {list_file}; mend or delete them, or raise data.max_unreadable_share"
        )
    _log.warning("%s and are left out; they are listed in %s", found, list_file)


def _too_few(name: str, num_readable: int, unreadable: list[str]) -> str:
    total = counted(num_readable + len(unreadable), "picture")
    cause = f" ({examples(unreadable)})" if unreadable else ""
    return f"{num_readable} of {total} in {name} can be used{cause}; at least 2 are needed, one to validate on"


def examples(unreadable: list[str]) -> str:
    """The first few lines of a list of what cannot be used, as one."""
    return "; ".join(unreadable[:3]) + ("; ..." if len(unreadable) > 3 else "")
