"""`vae-ldm archive add`: photos into a file set that keeps each in the fewest bytes that are good enough."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

from vae_ldm import loading
from vae_ldm.data.decoding import UnreadablePictureError, decode_whole, encoded_bytes, pillow_limit_lifted
from vae_ldm.data.names import as_text
from vae_ldm.data.photo_stream import check_unreadable, photo_records
from vae_ldm.data.sources import Record
from vae_ldm.desk.archive.photo_coder import PhotoCoder, Preference, middle
from vae_ldm.desk.archive.store import Archive, Damage, Entry, Settings, check_place, locked
from vae_ldm.errors import DataError, VaeLdmError, WeightsError
from vae_ldm.files import write_whole
from vae_ldm.hardware import prepare_cpu
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.latent_space.quantization import UnquantizableError
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.processes import Processes
from vae_ldm.terminal import StepReport, quieten_libraries
from vae_ldm.text import counted

DEFAULT_TARGET_PSNR = 32.0
"""As in a recipe: more than that, and somebody should look."""

_PART_BYTES = 2**26
"""Of photos' own files in one part: no payload is longer than its file, unless latents are preferred."""
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
    unreadable: list[str] = field(default_factory=list)

    @property
    def num_added(self) -> int:
        return sum(self.methods.values())


def add(
    path: Path,
    photos: Path,
    *,
    model: str,
    target_psnr: float | None = None,
    prefer: Preference | None = None,
    photos_per_part: int = 256,
) -> Added:
    """Archive every photo below `photos` that is not in the archive yet, which is made where there is none.

    A photo that has changed since is archived again, and counts from then on. `target_psnr` (32 dB by default) and
    `prefer` are those that the archive was made with. Of several processes each encodes its share, the first writes.

    Raises DataError, WeightsError and VaeLdmError for what cannot be opened or does not fit the archive, RunError
    where another process writes to it, and DataError in the end where more than 1 % of the photos cannot be read.
    """
    processes = Processes.launched()
    prepare_cpu()
    quieten_libraries()
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not processes.is_first)
    check_place(path)
    records = photo_records(photos)
    autoencoder = loading.load_autoencoder(model, device=processes.device)
    digest = weights_digest(autoencoder.autoencoder)

    def opened() -> Archive:
        if (path / "archive.json").is_file():
            return _suitable(Archive.open(path), model, digest, target_psnr, prefer)
        with StepReport("encoding photos to fit the coder on", console) as progress:
            coder = fitted_coder(autoencoder, records, progress)
        settings = Settings(
            model=model,
            digest=digest,
            target_psnr=DEFAULT_TARGET_PSNR if target_psnr is None else target_psnr,
            prefer=prefer or "smallest",
            coder=coder,
        )
        return Archive.create(path, settings)

    def tell(damage: Damage) -> None:
        console.print(f"{damage.where}: {damage.what}; what is lost is archived again", markup=False)

    with ExitStack() as stack:
        processes.first(lambda: stack.enter_context(locked(path)))
        archive = processes.first(opened)
        processes.first(lambda: archive.mend(tell))
        present = processes.first(lambda: archive.contents(tell))
        added = Added(num_photos=len(records))
        settings = archive.settings
        coder = PhotoCoder(
            autoencoder,
            settings.coder,
            target_psnr=settings.target_psnr,
            prefer="latents" if settings.prefer == "latents" else "smallest",
        )
        stack.enter_context(pillow_limit_lifted())
        report = stack.enter_context(StepReport("archiving", console))
        done = 0
        for chunk in _parts(records, photos_per_part):
            mine = []
            for number, record in enumerate(chunk[processes.rank :: processes.count], start=1):
                mine.append(_archived(record, coder, present))
                report(done + min(number * processes.count, len(chunk)), len(records))
            shares = processes.gather(mine)
            outcomes = [shares[place % processes.count][place // processes.count] for place in range(len(chunk))]
            entries = [outcome for outcome in outcomes if isinstance(outcome, Entry)]
            if entries:
                processes.first(partial(archive.append, entries))
            _count(added, chunk, outcomes)
            done += len(chunk)
        processes.first(lambda: _list_unreadable(path / "unreadable.txt", added.unreadable))
    for line in _summary(archive, added):
        console.print(line, markup=False)
    processes.first(lambda: _check_unreadable(path, added, console))
    return added


def _suitable(
    archive: Archive, model: str, digest: str, target_psnr: float | None, prefer: Preference | None
) -> Archive:
    """The archive. Raises VaeLdmError where it was made with anything else than what is asked for now."""
    check_model(archive, model, digest)
    settings = archive.settings
    for name, asked, own in (("target PSNR", target_psnr, settings.target_psnr), ("prefer", prefer, settings.prefer)):
        if asked is not None and asked != own:
            raise VaeLdmError(
                f"{archive.path}: was made with {name} {own}, not {asked}; leave it out, or name a new archive"
            )
    return archive


def check_model(archive: Archive, model: str, digest: str) -> None:
    """Raise VaeLdmError where the archive's latents are of other weights."""
    if archive.settings.digest != digest:
        raise VaeLdmError(
            f"{archive.path}: its latents were made by {archive.settings.model} ({archive.settings.digest[:12]}), and "
            f"{model} has other weights ({digest[:12]}); name that model, or make a new archive"
        )


def fitted_coder(
    autoencoder: ImageAutoencoder, records: Sequence[Record], progress: Callable[[int, int], None]
) -> LatentCoder:
    """Fitted on photos evenly spread over all, as many as hold enough latents; `progress` hears how many of how many.

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
            except UnreadablePictureError as error:
                reason = f"{records[row].id}: {error}"
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
            return LatentCoder.fit(latents)
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
    except OSError:
        return 0


def _archived(record: Record, coder: PhotoCoder, present: dict[str, bytes]) -> Entry | str | None:
    """The photo as a row; None where it is in the archive already; why not, where it cannot be read."""
    try:
        file = encoded_bytes(record.picture)
        content = content_digest(file)
        if present.get(record.id) == content:
            return None
        pixels = decode_whole(file)
    except UnreadablePictureError as error:
        return f"{record.id}: {error}"
    encoded = coder.encode(pixels, file)
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


def content_digest(file: bytes) -> bytes:
    """16 bytes by which a file is known again."""
    return hashlib.blake2b(file, digest_size=16).digest()


def _count(added: Added, chunk: Sequence[Record], outcomes: Sequence[Entry | str | None]) -> None:
    for record, outcome in zip(chunk, outcomes, strict=True):
        if outcome is None:
            added.num_present += 1
        elif isinstance(outcome, str):
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
            f"{np.mean(added.psnr):.2f} dB in the mean, {min(added.psnr):.2f} at worst"
        )
    yield f"  all files of the archive: {archive.num_bytes:,} bytes"


def _list_unreadable(file: Path, unreadable: Sequence[str]) -> None:
    if unreadable:
        write_whole(file, "\n".join(unreadable) + "\n")
    else:
        file.unlink(missing_ok=True)


def _check_unreadable(path: Path, added: Added, console: Console) -> None:
    if not added.unreadable:
        return
    examples = "; ".join(added.unreadable[:3]) + ("; ..." if len(added.unreadable) > 3 else "")
    listed = f"{examples}: not in the archive, and listed in {path / 'unreadable.txt'}"
    check_unreadable(len(added.unreadable), added.num_photos, f"{listed}; the others are archived")
    console.print(
        f"{len(added.unreadable)} of {counted(added.num_photos, 'photo')} cannot be read; {listed}", markup=False
    )
