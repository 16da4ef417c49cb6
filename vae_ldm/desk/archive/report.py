"""`vae-ldm archive report`: what an archive would make of the user's photos, and where codecs do better."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from vae_ldm import loading
from vae_ldm.data.decoding import UnreadablePictureError, decode_whole, pillow_limit_lifted
from vae_ldm.data.sources import Record
from vae_ldm.desk.archive.add import DEFAULT_TARGET_PSNR, fitted_coder
from vae_ldm.desk.archive.page import ArchiveSetting, write_archive_page
from vae_ldm.desk.archive.photo_coder import KEPT_CODECS, latent_ladder
from vae_ldm.desk.command import DeskCommand
from vae_ldm.errors import DataError
from vae_ldm.evaluation.codec import codecs
from vae_ldm.evaluation.legibility import READING_EXTRA, Reader, barcode_reader, text_reader
from vae_ldm.evaluation.rate_distortion import LATENTS, RateDistortion, RateDistortionJudge
from vae_ldm.evaluation.rate_distortion_summary import StepRow, in_words, step_rows
from vae_ldm.hardware import device_name
from vae_ldm.paths import PAGE_SUFFIXES, check_output_file, expanded
from vae_ldm.starter import STARTER, is_starter
from vae_ldm.text import counted

_EVERY = 3
"""The table shows every third step; an archive chooses among all."""
_CROP_STEP = 12
_SHORTEST_SIDE = 8
"""In px, of a photo that is measured."""


def report(
    photos: Path,
    *,
    model: str | None = None,
    out: Path = Path("archive.html"),
    num_photos: int = 48,
    target_psnr: float = DEFAULT_TARGET_PSNR,
) -> RateDistortion:
    """Measure latents at each step and codecs on photos of their own size, print a table, write the page.

    Without `model` the starter is measured. The coder is fitted on other photos than are measured, where there are as
    many again.

    Raises DataError, WeightsError and VaeLdmError for what cannot be opened or measured, and at the end
    ManyUnreadableError where more than 1 % of the photos cannot be read.
    """
    command = DeskCommand(width=200)
    check_output_file(out, "page", PAGE_SUFFIXES)
    records = command.photo_records(photos)
    source = command.starter() if model is None else model
    autoencoder = loading.load_autoencoder(source)
    measured, others = _split(records, num_photos)
    learned = command.tell_learned([source], measured)
    with command.progress("encoding photos to fit the coder on") as progress:
        coder, num_fitted = fitted_coder(autoencoder, others, progress)
    readers, advice = _readers()
    steps = [(number, coder.steps[number]) for number in range(0, len(coder.steps), _EVERY)]
    judge = RateDistortionJudge(steps, codecs(), readers, crop_step=_CROP_STEP)
    sizes: list[tuple[int, int]] = []
    num_other_colors = 0
    parts = judge.parts_a_photo
    chosen = counted(len(measured), "photo")
    ways = f"{counted(len(steps), 'quality step')} and in {counted(len(judge.codecs), 'codec')}"
    with command.progress(f"measurements of {chosen} at {ways}") as progress, pillow_limit_lifted():

        def told(photo: int, part: int = 0) -> None:
            progress(photo * parts + part, len(measured) * parts)

        for number, record in enumerate(measured):
            told(number)
            try:
                pixels = decode_whole(record.picture)
            except UnreadablePictureError as error:
                command.leave_out(record, str(error))
                continue
            shortest, longest = min(pixels.shape[:2]), max(pixels.shape[:2])
            if shortest < _SHORTEST_SIDE or longest > min(KEPT_CODECS.values()):
                height, width = pixels.shape[:2]
                command.leave_out(record, f"{width}x{height} px, which not every codec and network can hold")
                continue
            ladder = latent_ladder(autoencoder, coder, pixels)
            if ladder is None or pixels.shape[2] == 4:
                num_other_colors += 1
                continue
            judge.add(record.id, ladder, partial(told, number))
            sizes.append(pixels.shape[:2])
    command.tell_left_out()
    if not sizes:
        channels = counted(autoencoder.channels, "channel")
        raise DataError(f"none of {chosen} of {photos} suits an autoencoder of {channels}")
    result = judge.result()
    words = in_words(result, tuple(KEPT_CODECS), target_psnr)
    setting = ArchiveSetting(
        title=str(photos),
        model=_name_of(source),
        num_in_folder=len(records),
        num_fitted=num_fitted,
        fitted_on_others=others is not measured,
        num_unreadable=len(command.unreadable),
        num_other_colors=num_other_colors,
        median_size=tuple(int(side) for side in np.median(sizes, axis=0)),
        device=device_name(autoencoder.autoencoder.device),
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        target_psnr=target_psnr,
        kept_codecs=tuple(KEPT_CODECS),
        advice=advice,
        learned=learned,
    )
    write_archive_page(out, result, words, setting)
    command.output.print(_table(result))
    for line in ("", *_said_of_lowest(result), *_said_of_text(result), *([advice] if advice else []), *words, str(out)):
        command.hand_over(line)
    command.check_left_out(len(measured), f"the others are measured in {out}")
    return result


def _name_of(model: str) -> str:
    """What a page that others read calls the model: the name of its run or folder, not where it lies here."""
    if is_starter(model):
        return STARTER
    path = expanded(model)
    if not path.exists():
        return model  # of the Hub
    last = path.resolve()
    return f"{last.parent.name}/{last.name}" if last.name in ("autoencoder", "pipeline", "vae") else last.name


def _split(records: Sequence[Record], num_photos: int) -> tuple[Sequence[Record], Sequence[Record]]:
    """The photos to measure, evenly spread, and those to fit the coder on: others, where there are enough."""
    rows = np.unique(np.linspace(0, len(records) - 1, min(num_photos, len(records))).round().astype(int))
    measured = [records[row] for row in rows]
    taken = set(rows.tolist())
    others = [record for row, record in enumerate(records) if row not in taken]
    return measured, others if len(others) >= len(measured) else measured


def _readers() -> tuple[list[Reader], str]:
    """What is installed to read with, and what to install where something is missing."""
    found = {"barcodes (zxing-cpp)": barcode_reader(), "text (rapidocr)": text_reader()}
    missing = [name for name, reader in found.items() if reader is None]
    advice = f"what survives of {' and '.join(missing)} is not measured: {READING_EXTRA}" if missing else ""
    return [reader for reader in found.values() if reader is not None], advice


def _table(result: RateDistortion) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=f"bytes a photo at equal PSNR, mean of {counted(result.num_photos, 'photo')}",
        title_justify="left",
    )
    rows = step_rows(result)
    names = [name for name in (LATENTS, *result.equal) if name not in _always_lowest(rows)]
    for title in ("step", "PSNR", *names, "fewest"):
        table.add_column(title, justify="right" if title != "fewest" else "left", no_wrap=True)
    for row in rows:
        sizes = [f"{'≤ ' if name in row.lowest else ''}{row.num_bytes[name]:,.0f}" for name in names]
        some = "" if row.num_photos == result.num_photos else f" (of {counted(row.num_photos, 'photo')})"
        table.add_row(row.setting, f"{row.psnr:.2f} dB", *sizes, row.best + some)
    return table


def _always_lowest(rows: Sequence[StepRow]) -> dict[str, float]:
    """The bytes of each codec that takes those of its lowest quality for every photo at every one of several steps."""
    found = {}
    for name in rows[0].num_bytes if len(rows) > 1 else ():
        sizes = {row.num_bytes[name] for row in rows}
        if len(sizes) == 1 and all(
            name in row.lowest and row.lowest[name].num_photos == row.num_photos for row in rows
        ):
            found[name] = sizes.pop()
    return found


def _said_of_lowest(result: RateDistortion) -> Iterator[str]:
    rows = step_rows(result)
    if always := [f"{name} ≤ {size:,.0f}" for name, size in _always_lowest(rows).items()]:
        yield f"bytes a photo at every step: {', '.join(always)}"
    concerned = {name for row in rows for name in row.lowest}
    if concerned:
        lowest = {codec.name: codec.psnr[0].mean() for codec in result.codecs if codec.name in concerned}
        kept = ", ".join(f"{name} {psnr:.1f} dB" for name, psnr in lowest.items())
        yield (
            "≤ marks bytes of a codec's lowest quality, which keeps more of some or all photos than the step does "
            f"(on average {kept})"
        )


def _said_of_text(result: RateDistortion) -> Iterator[str]:
    for one in result.legibility:
        yield (
            f"{one.what} read by {one.reader} on {one.num_photos} of {counted(result.num_photos, 'photo')}: "
            f"{one.num_read}. It still reads this share of them at each step, and from codecs in the same bytes:"
        )
        for way, shares in one.kept.items():
            told = ", ".join(
                f"{setting}: {100 * share:.0f} %"
                for setting, share in zip(result.latents.settings, shares, strict=True)
            )
            yield f"  {way}: {told}"
