"""Real photos beside a trained model: what may be learned from, and what is held out, by the rules of training."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout

from vae_ldm.choices import Resize
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.picture_cache import load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.pictures import PictureSplits
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.pipeline import PhotoPipeline
from vae_ldm.errors import DataError
from vae_ldm.opening import open_run, settings_of

_PREFIX, _LOCK = "vae-ldm-photos-", "lock"
"""How the name of a folder of decoded photos begins, and the name of the lock in it."""


@dataclass(frozen=True)
class Preparation:
    """How photos are brought to the size of a model, and which are held out where their folder does not say."""

    image_size: tuple[int, int]
    channels: int
    resize: Resize = "crop"
    validation_fraction: float = 0.1
    horizontal_flip: bool = False
    """Whether a mirrored photo is one of the same class."""

    @classmethod
    def of(cls, model: PhotoPipeline) -> Self:
        """The preparation that the model's own photos had."""
        settings = model.settings
        return cls(
            model.image_size, model.channels, model.resize, settings.validation_fraction, settings.horizontal_flip
        )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(**{**fields, "image_size": tuple(fields["image_size"])})

    def as_dict(self) -> dict[str, Any]:
        """The preparation as a JSON file holds it."""
        return asdict(self)


@contextmanager
def real_photos(
    photos: Path | None, run: Path | None, preparation: Preparation, command: DeskCommand
) -> Iterator[PictureSplits]:
    """Both splits of a folder of photos, or of the run's own pictures where `photos` is None or the run's own folder.

    A folder is decoded into a place that is gone when the block ends. Photos that cannot be read are left out and
    noted in `command`. Raises DataError where nothing is left, where there are no classes, or where there is neither
    folder nor run.
    """
    if photos is None and run is None:
        raise DataError("there is no run whose photos could be taken; name a folder of photos")
    if run is not None and (photos is None or is_run_data(photos, run)):
        yield _with_classes(open_run(run).pictures, str(run))
        return
    assert photos is not None
    with (
        _temporary_folder() as folder,
        command.progress("reading photos") as report,
    ):
        source = ImageFolderSource(photos)
        for name in source.photos.unreadable:
            command.unreadable.add_folder(photos / name)
        with _quiet("vae_ldm.data.picture_cache"):  # what it says is said below
            splits = load_pictures(
                source,
                folder / "pictures",
                PictureSettings(
                    preparation.image_size,
                    preparation.channels,
                    preparation.resize,
                    validation_fraction=preparation.validation_fraction,
                    max_unreadable_share=1.0,
                ),
                progress=report,
            )
        for line in splits.unreadable:
            name, _, reason = line.partition(": ")
            command.unreadable.add(name, reason)
        yield _with_classes(splits, str(photos))


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is gone when the block ends. One that a killed process has left is removed by the next call.

    Whoever uses a folder holds a lock in it, which ends with the process.
    """
    _remove_abandoned()
    new = Path(tempfile.mkdtemp(prefix="vae-ldm-new-"))
    with FileLock(new / _LOCK):
        # Only now may other calls find it: where the lock of a folder of this name is free, its process has ended.
        folder = new.rename(new.with_name(new.name.replace("vae-ldm-new-", _PREFIX)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout), FileLock(folder / _LOCK, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Errors only."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)


def is_run_data(photos: Path, run: Path) -> bool:
    """Whether this is the folder that the run was trained on."""
    return settings_of(run).photos == photos.resolve()


def _with_classes(splits: PictureSplits, name: str) -> PictureSplits:
    if not np.any(splits.train.labels >= 0):
        raise DataError(f"{name}: its photos have no classes; put them in one folder a class")
    if not np.any(splits.validation.labels >= 0):
        raise DataError(f"{name}: its held-out photos have no classes; put them in one folder a class")
    return splits
