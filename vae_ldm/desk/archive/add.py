"""`vae-ldm archive add`: photos into a file set that keeps each in the fewest bytes that are good enough."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
from torch import Tensor

from vae_ldm import loading
from vae_ldm.choices import Preference
from vae_ldm.data.decoding import UnreadablePictureError, decode_whole, encoded_bytes, pillow_limit_lifted
from vae_ldm.data.names import as_text
from vae_ldm.data.sources import Record
from vae_ldm.desk.archive.part import Damage, Entry
from vae_ldm.desk.archive.photo_coder import PhotoCoder, middle
from vae_ldm.desk.archive.store import Archive, Settings, locked_archive
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.encoder import stored_model
from vae_ldm.errors import DataError, StoppedError, VaeLdmError, WeightsError, first_line
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.latent_space.quantization import UnquantizableError
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.paths import check_archive_place
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.starter import STARTER, is_starter, model_name, other_starter
from vae_ldm.text import counted

DEFAULT_TARGET_PSNR = 32.0
"""The PSNR in dB that every photo reaches by default."""

_PART_BYTES = 2**26
"""Most bytes of photo files in one part; no payload is longer than its file, unless latents are preferred."""
_FIT_PHOTOS = 256
_FIT_POSITIONS = 2**16


@dataclass
class Added:
    """What one `add` has done."""

    num_photos: int = 0
    num_present: int = 0
    methods: Counter[str] = field(default_factory=Counter)
    payload_bytes: int = 0
    source_bytes: int = 0
    psnr: list[float] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Id and reason."""

    @property
    def num_added(self) -> int:
        return sum(self.methods.values())


def add(
    path: Path,
    photos: Path,
    *,
    model: str | None = None,
    target_psnr: float | None = None,
    prefer: Preference | None = None,
    photos_per_part: int = 256,
) -> Added:
    """Archive every photo below `photos` that is not in the archive yet, which is made where there is none.

    A photo that has changed since is archived again, and counts from then on. Without `model` an archive that exists
    goes on with its own, and a new one is made with the starter. `target_psnr` (32 dB by default) and
    `prefer` are those that the archive was made with. Each of several processes encodes its share, and the first one
    writes.

    Raises DataError, WeightsError and VaeLdmError for what cannot be opened or does not fit the archive, RunError
    where another process writes to it, and ManyUnreadableError in the end where more than 1 % of the photos cannot be
    read; all of those are listed in the archive's `unreadable.txt`.
    """
    command = DeskCommand(launched=True)
    processes = command.processes
    check_archive_place(path)
    records = command.photo_records(photos)
    source = _model_of(command, path) if model is None else model
    autoencoder = loading.load_autoencoder(source, device=processes.device)
    digest = weights_digest(autoencoder.autoencoder)

    def opened() -> Archive:
        if (path / "archive.json").is_file():
            archive = _suitable(Archive.open(path), source, digest, target_psnr, prefer)
            # An archive of format 1 does not say it.
            archive.settings = replace(archive.settings, downsample_factor=autoencoder.downsample_factor)
            return archive
        with command.progress("encoding photos to fit the coder on") as progress:
            coder, _ = fitted_coder(autoencoder, records, progress)
        settings = Settings(
            model=model_name(source),
            digest=digest,
            target_psnr=DEFAULT_TARGET_PSNR if target_psnr is None else target_psnr,
            prefer=prefer or "smallest",
            coder=coder,
            downsample_factor=autoencoder.downsample_factor,
        )
        return Archive.create(path, settings)

    def tell(damage: Damage) -> None:
        command.say(f"{damage.where}: {damage.what}; what is lost is archived again")

    # The first process holds the lock from before it reads the archive until the last part is written, and mends damage
    # before it lists what is present, so that lost photos count as absent. All processes encode.
    with ExitStack() as stack:
        processes.first(lambda: stack.enter_context(locked_archive(path)))
        archive = processes.first(opened)
        command.tell_foreign(source, autoencoder, records)  # which takes longer than to see that the model is another
        processes.first(lambda: archive.mend(tell))
        present = processes.first(lambda: archive.contents(tell))
        added = _archive_all(command, archive, autoencoder, records, present, photos_per_part)
        command.unreadable.extend(added.unreadable)
        processes.first(lambda: command.unreadable.write(path / "unreadable.txt"))
    command.tell_left_out()
    for line in _summary(archive, added):
        command.say(line)
    command.check_left_out(len(records), f"they are listed in {path / 'unreadable.txt'}, and the others are archived")
    return added


def _model_of(command: DeskCommand, path: Path) -> str:
    """The model of an archive that exists, where nobody names one; else the starter. It is told."""
    if not command.processes.first(lambda: (path / "archive.json").is_file()):
        return command.starter()
    own = command.processes.first(lambda: Archive.open(path).settings.model)
    command.say(f"{path}: goes on with its own model, {own}")
    return stored_model(own, path)


def _archive_all(
    command: DeskCommand,
    archive: Archive,
    autoencoder: ImageAutoencoder,
    records: Sequence[Record],
    present: dict[str, bytes],
    photos_per_part: int,
) -> Added:
    """Encode the photos that are not `present` on all processes, and write them part by part in the first."""
    added = Added(num_photos=len(records))
    settings = archive.settings
    coder = PhotoCoder(
        autoencoder,
        settings.coder,
        target_psnr=settings.target_psnr,
        prefer=settings.prefer,
    )
    done = 0
    with pillow_limit_lifted(), command.progress("archiving photos") as report:
        for chunk in _parts(records, photos_per_part):
            outcomes = command.share(
                chunk,
                partial(_archived, coder=coder, present=present),
                report=partial(_report_after, report, done, len(records)),
                everywhere=True,
            )
            entries = [outcome for outcome in outcomes if isinstance(outcome, Entry)]
            if entries:
                command.processes.first(partial(archive.append, entries))
            _count(added, chunk, outcomes)
            done += len(chunk)
    return added


def _suitable(
    archive: Archive, model: str, digest: str, target_psnr: float | None, prefer: Preference | None
) -> Archive:
    """The archive. Raises VaeLdmError where it was made with anything else than what is asked for now."""
    check_same_weights(archive, model, digest)
    settings = archive.settings
    for name, asked, own in (("target PSNR", target_psnr, settings.target_psnr), ("prefer", prefer, settings.prefer)):
        if asked is not None and asked != own:
            raise VaeLdmError(
                f"{archive.path}: was made with {name} {own}, not {asked}; leave it out, or name a new archive"
            )
    return archive


def check_same_weights(archive: Archive, model: str, digest: str) -> None:
    """Raise VaeLdmError where the archive's latents are of other weights."""
    if archive.settings.digest != digest:
        if archive.settings.model == STARTER and is_starter(model):
            made = f"{archive.path}: its latents were made"
            raise VaeLdmError(other_starter(made, "make a new archive"))
        raise VaeLdmError(
            f"{archive.path}: its latents were made by {archive.settings.model} ({archive.settings.digest[:12]}), and "
            f"{model_name(model)} has other weights ({digest[:12]}); name that model, or make a new archive"
        )


def fitted_coder(
    autoencoder: ImageAutoencoder, records: Sequence[Record], progress: Callable[[int, int], None]
) -> tuple[LatentCoder, int]:
    """The coder, and the number of photos that it was fitted on: evenly spread, as many as hold enough latents.

    `progress` hears how many of how many are encoded.

    Raises DataError where none can be read, WeightsError where the model makes no finite latents of any.
    """
    chosen = np.unique(np.linspace(0, len(records) - 1, min(_FIT_PHOTOS, len(records))).round().astype(int))
    latents: list[Tensor] = []
    positions, reason = 0, ""
    with pillow_limit_lifted():
        for done, row in enumerate(np.random.default_rng(0).permutation(chosen)):
            progress(done, min(len(chosen), ceil(done * _FIT_POSITIONS / positions)) if positions else len(chosen))
            try:
                found = autoencoder.encode(middle(decode_whole(records[row].picture)))[0].float().cpu()
            except (UnreadablePictureError, RuntimeError, ValueError) as error:
                reason = f"{records[row].id}: {first_line(error)}"  # also of a network: one photo stops nothing
                continue
            if not found.isfinite().all():
                reason = "the latents are not finite"
                continue
            latents.append(found)
            positions += found[0].numel()
            if positions >= _FIT_POSITIONS:
                break
    if latents:
        try:
            return LatentCoder.fit(latents), len(latents)
        except UnquantizableError as error:
            reason = str(error)
    if reason.startswith("the latents"):
        raise WeightsError(f"this autoencoder cannot serve an archive: {reason}")
    raise DataError(f"none of {counted(len(chosen), 'photo')} can be read ({reason})")


def _parts(records: Sequence[Record], photos_per_part: int) -> Iterator[Sequence[Record]]:
    """The photos of each part, by their own number and size alone: a resumed `add` makes the same parts."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        own = _file_size(record)
        if chunk and (len(chunk) == photos_per_part or size + own > _PART_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += own
    if chunk:
        yield chunk


def _file_size(record: Record) -> int:
    try:
        return Path(str(record.picture)).stat().st_size
    except (OSError, ValueError):
        return 0


def _archived(record: Record, coder: PhotoCoder, present: dict[str, bytes]) -> Entry | tuple[str, str] | None:
    """The photo as a row; None where it is in the archive already; its id and the reason where it cannot be kept."""
    try:
        for what, text in (("name", record.id), ("class", record.label), ("caption", record.caption)):
            if not _is_text(text):
                return as_text(record.id), f"its {what} is no text"
        file = encoded_bytes(record.picture)
        content = file_digest(file)
        if present.get(record.id) == content:
            return None
        pixels = decode_whole(file)
        encoded = coder.encode(pixels, file)
    except UnreadablePictureError as error:
        return record.id, str(error)
    except (StoppedError, VaeLdmError):
        raise
    except Exception as error:  # of codecs and networks, each of which fails in its own way
        return record.id, f"cannot be archived ({first_line(error)})"
    return Entry(
        id=record.id,
        source=as_text(str(record.picture)),
        content=content,
        width=pixels.shape[1],
        height=pixels.shape[0],
        channels=pixels.shape[2],
        label=record.label,
        caption=record.caption,
        method=encoded.method,
        psnr=encoded.psnr,
        payload=encoded.payload,
    )


def _is_text(text: str | None) -> bool:
    """Whether it is a text that a file can hold, or None."""
    try:
        if text is not None:
            str.encode(text)
    except (TypeError, UnicodeEncodeError):
        return False
    return True


def file_digest(file: bytes) -> bytes:
    """16 bytes by which a file is known again."""
    return hashlib.blake2b(file, digest_size=16).digest()


def _report_after(report: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    report(before + done, total)


def _count(added: Added, chunk: Sequence[Record], outcomes: Sequence[Entry | tuple[str, str] | None]) -> None:
    for record, outcome in zip(chunk, outcomes, strict=True):
        if outcome is None:
            added.num_present += 1
        elif isinstance(outcome, tuple):
            added.unreadable.append(outcome)
        else:
            added.methods[outcome.method] += 1
            added.payload_bytes += len(outcome.payload)
            added.source_bytes += _file_size(record)
            added.psnr.append(outcome.psnr)


def _summary(archive: Archive, added: Added) -> Iterator[str]:
    were = "was" if added.num_present == 1 else "were"
    already = f", {added.num_present:,} {were} there already" if added.num_present else ""
    yield f"{archive.path}: {added.num_added:,} of {counted(added.num_photos, 'photo')} archived{already}"
    if added.num_added:
        how = ", ".join(f"{count:,} as {name}" for name, count in added.methods.most_common())
        yield (
            f"  {how}; {added.payload_bytes / added.num_added:,.0f} bytes a photo "
            f"(the photos' own files: {added.source_bytes / added.num_added:,.0f}), "
            f"{np.mean(added.psnr):.2f} dB on average, {min(added.psnr):.2f} at worst"
        )
    yield f"  all files of the archive: {archive.num_bytes:,} bytes"
