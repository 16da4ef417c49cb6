"""`vae-ldm archive extract` and `verify`: archived photos as files again, and whether the archive is whole."""

import errno
import fnmatch
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from vae_ldm import loading
from vae_ldm.choices import FileFormat
from vae_ldm.data.decoding import UnreadablePictureError, decode_whole, pillow_limit_lifted
from vae_ldm.desk.archive.add import check_same_weights, file_digest
from vae_ldm.desk.archive.listing import Problems, no_photo
from vae_ldm.desk.archive.part import Damage, Entry
from vae_ldm.desk.archive.photo_coder import PhotoCoder, check_memory, decode_payload
from vae_ldm.desk.archive.store import Archive
from vae_ldm.desk.archive.targets import target_file, target_names
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.encoder import stored_model
from vae_ldm.errors import DataError, VaeLdmError, WeightsError
from vae_ldm.evaluation.codec import picture_psnr
from vae_ldm.files import write_whole
from vae_ldm.latent_space.entropy_coding import DamagedMessageError
from vae_ldm.models.pillow_images import to_eight_bits
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.paths import check_output_folder
from vae_ldm.text import counted

_OTHER_MACHINE = 0.05
"""dB by which another machine's rounding may change a picture."""
_OF_ONE_NAME = {
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.EINVAL, errno.EILSEQ),
    *(errno.ELOOP, errno.EACCES, errno.EPERM),
}
"""Errors of the system that concern one file, and not the disk as a whole."""


def extract(
    path: Path,
    patterns: Sequence[str] = (),
    *,
    out: Path,
    model: str | None = None,
    file_format: FileFormat = "own",
    overwrite: bool = False,
) -> int:
    """How many photos were written below `out`, by their ids: latents as PNG, what a codec keeps as its own file.

    A file that exists is left alone and counted, unless `overwrite`. `model` is by default the one that the archive
    names, if that lies on this machine. What is damaged, or cannot be written, is told, and the others are written.

    Raises DataError where no id fits, VaeLdmError for another model, RunError in the end where something was left out.
    """
    command = DeskCommand()
    check_output_folder(out)
    archive, problems = Archive.open(path), Problems(command.console)
    if not len(archive):
        raise DataError(f"{path}: the archive is empty; archive photos with `vae-ldm archive add`")
    opened = _OpenedModel(archive, model)
    targets = target_names(archive.methods(), file_format)
    num_written = num_existing = num_found = 0
    names: list[str] = []
    written: set[tuple[int, int]] = set()
    with command.progress("extracting photos") as report, pillow_limit_lifted():
        for entry in archive.entries(problems):
            names.append(entry.id)
            if patterns and not any(fnmatch.fnmatchcase(entry.id, pattern) for pattern in patterns):
                continue
            num_found += 1
            if entry.method == "latents":
                opened.coder  # noqa: B018 (another model is no fault of this picture)
            try:
                target = target_file(out, targets[entry.id])
                if target is None:
                    raise VaeLdmError("would be written outside the folder, and is not")
                if target.exists() and _place(target) in written:
                    raise VaeLdmError(f"has the name of another photo on this disk, {target.name}, and is not written")
                if target.exists() and not overwrite:
                    num_existing += 1
                    continue
                content = _file_of(entry, opened, file_format)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, content)
                written.add(_place(target))
            except (DamagedMessageError, UnreadablePictureError) as error:
                problems(Damage(entry.id, f"cannot be decoded ({error})"))
                continue
            except VaeLdmError as error:
                problems(Damage(entry.id, str(error)))
                continue
            except OSError as error:
                if error.errno not in _OF_ONE_NAME:
                    raise
                problems(Damage(entry.id, f"cannot be written ({error.strerror})"))
                continue
            num_written += 1
            report(num_written + num_existing, len(archive))
    if patterns and not num_found and not problems:
        raise no_photo(path, patterns, names)
    of = f"{num_written:,} of " if num_written < num_found else ""
    command.say(f"{of}{counted(num_found, 'photo')} written to {out}")
    if num_existing:
        left = f"{counted(num_existing, 'file')} from before left as {'it is' if num_existing == 1 else 'they are'}"
        command.say(f"{left}; --overwrite replaces what is there")
    problems.fail(f"{path}: ")
    return num_written


def verify(path: Path, photos: Path | None = None, *, model: str | None = None) -> int:
    """Check every file, row, message and name, and return how many photos are whole; no network decodes anything.

    With `photos` each of them must be in the archive as it is now, and what the archive gives back is measured against
    it. Raises RunError where anything is wrong, after telling all of it.
    """
    command = DeskCommand()
    archive, problems = Archive.open(path), Problems(command.console)
    opened = _OpenedModel(archive, model)
    if model is not None or photos is not None:
        opened.coder  # noqa: B018 (says at once that it is another)
    records = [] if photos is None else command.photo_records(photos)
    originals = {record.id: Path(str(record.picture)) for record in records}
    for folder in command.unreadable.folders:
        problems(Damage(folder, "cannot be looked into, so that nothing is compared with its photos"))
    for damage in archive.check_files():
        problems(damage)
    targets = target_names(archive.methods(), "own")
    num_whole = 0
    seen = set()
    with command.progress("verifying photos") as report, pillow_limit_lifted():
        for done, entry in enumerate(archive.entries(problems), start=1):
            seen.add(entry.id)
            what = _what_is_wrong(entry, opened, originals.get(entry.id))
            if what is None and targets[entry.id] is None:
                what = "cannot be extracted: its name leads out of a folder"
            if what is None:
                num_whole += 1
            else:
                problems(Damage(entry.id, what))
            report(done, len(archive))
    for missing in sorted(originals.keys() - seen):
        problems(Damage(missing, "is not in the archive"))
    problems.fail(f"{path}: {counted(num_whole, 'photo')} {'is' if num_whole == 1 else 'are'} whole, but ")
    measured = f", each within its target of the photo in {photos}" if photos is not None else ""
    command.say(f"{path}: {counted(num_whole, 'photo')}, all whole{measured}")
    return num_whole


class _OpenedModel:
    """The archive's model, opened when the first picture needs it."""

    def __init__(self, archive: Archive, model: str | None) -> None:
        self.archive, self.model = archive, model

    @cached_property
    def coder(self) -> PhotoCoder:
        """Raises WeightsError where the model cannot be opened, VaeLdmError where it is another."""
        settings = self.archive.settings
        source = self.model or stored_model(settings.model, self.archive.path)
        try:
            autoencoder = loading.load_autoencoder(source)
        except WeightsError as error:
            if self.model is not None:
                raise
            raise WeightsError(f"{error} (the archive was made by it; say where it is now with --model)") from error
        check_same_weights(self.archive, source, weights_digest(autoencoder.autoencoder))
        return PhotoCoder(autoencoder, settings.coder, target_psnr=settings.target_psnr)


def pixels_of(entry: Entry, opened: _OpenedModel) -> np.ndarray:
    """uint8 [H, W, C] of an archived picture. Raises DamagedMessageError, UnreadablePictureError, WeightsError."""
    if entry.method == "latents":
        return opened.coder.decode_latents(entry.payload, entry.height, entry.width, entry.channels)
    return decode_payload(entry)


def _what_is_wrong(entry: Entry, opened: _OpenedModel, original: Path | None) -> str | None:
    """What is wrong with a picture whose checksum is right; None where nothing is."""
    try:
        if original is not None and file_digest(original.read_bytes()) != entry.content:
            return "the photo has changed since it was archived"
        if original is not None:
            psnr = picture_psnr(pixels_of(entry, opened), decode_whole(original))
            least = opened.archive.settings.target_psnr - _OTHER_MACHINE
            return None if psnr >= least else f"is {psnr:.2f} dB from its photo, below the target"
        if entry.method == "latents":
            settings = opened.archive.settings
            check_memory(settings.coder, entry.payload)
            settings.coder.decode(entry.payload, (entry.height, entry.width), settings.downsample_factor)
        else:
            pixels_of(entry, opened)
    except (DamagedMessageError, UnreadablePictureError) as error:
        return f"cannot be decoded ({error})"
    except ValueError as error:  # shapes that do not belong together
        return f"cannot be compared ({error})"
    return None


def _place(file: Path) -> tuple[int, int]:
    """Which file it is on this disk, whatever its name."""
    status = file.stat()
    return status.st_dev, status.st_ino


def _file_of(entry: Entry, opened: _OpenedModel, file_format: FileFormat) -> bytes:
    if file_format == "own" and entry.method != "latents":
        return entry.payload
    pixels = pixels_of(entry, opened)
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    stream = io.BytesIO()
    if file_format == "jpeg":
        to_eight_bits(image, keep_alpha=False).save(stream, "JPEG", quality=95)
    elif file_format == "webp":
        image.save(stream, "WebP", lossless=True)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()
