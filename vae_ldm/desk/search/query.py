"""`vae-ldm index query`: the photos most like a photo, as a table, as JSON and on a sheet."""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from vae_ldm.data.decoding import UnreadablePictureError, decode_picture, pillow_limit_lifted
from vae_ldm.data.names import as_bytes
from vae_ldm.data.sources import Record
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.search.index import Hit, Index, open_index
from vae_ldm.files import naming
from vae_ldm.pages.image_grid import image_grid
from vae_ldm.paths import SHEET_SUFFIXES, check_output_file
from vae_ldm.text import counted, shown

_SHEET_SIDE = 144
_SHEET_ROWS = 24
_SAME = "the same photo"

Answers = list[tuple[Record, list[Hit]]]


def query_index(
    index: Path | str,
    photos: Path,
    *,
    k: int = 10,
    store: str | None = None,
    model: str | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> Answers:
    """Print the k photos most like each of `photos`, a file or a folder; draw them on the sheet `out`.

    Raises what `open_index` does, DataError where no photo can be read, VaeLdmError where the sheet cannot be written,
    and at the end ManyUnreadableError where more than one in a hundred cannot be read.
    """
    command = DeskCommand(width=None if sys.stdout.isatty() else 240)  # a file or a program wants whole lines
    if out is not None:
        check_output_file(out, "sheet", SHEET_SUFFIXES)
    records = command.photo_records(photos)
    opened = open_index(index, store=store, model=model)
    answers: Answers = []
    for batch in opened.encoder.batches(records, on_unreadable=command.leave_out):
        answers += zip(batch.records, opened.query(batch, k), strict=True)
    if not answers:
        command.refuse_all_left_out(counted(len(records), "photo"))
    command.tell_left_out()
    if opened.store.advice is not None:
        command.say(opened.store.advice)
    if as_json:
        command.output.out(json.dumps(_as_json(opened, answers), indent=1), highlight=False)
    else:
        _print_tables(opened, answers, command)
    if out is not None:
        with naming(out):
            _sheet(answers[:_SHEET_ROWS]).save(out)
        only = f", the first {_SHEET_ROWS} of {len(answers):,} photos" if len(answers) > _SHEET_ROWS else ""
        command.say(f"{out}{only}")
    command.check_left_out(len(records), "the others are answered")
    return answers


def _print_tables(index: Index, answers: Answers, command: DeskCommand) -> None:
    for record, hits in answers:
        command.output.print(shown(record.id), style="bold", markup=False)
        command.output.print(_table(hits))
    among = f"among {counted(len(index), 'photo')} of {index.store.name}"
    command.hand_over(f"similarity: cosine of {index.features_name}, {among}")


def _table(hits: Sequence[Hit]) -> Table:
    with_class = any(hit.photo.label is not None for hit in hits)
    with_caption = any(hit.photo.caption is not None for hit in hits)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("similarity", justify="right", no_wrap=True)
    if with_class:
        table.add_column("class", no_wrap=True)
    if with_caption:
        table.add_column("caption", max_width=60, no_wrap=True)
    table.add_column("photo", overflow="fold")
    for rank, hit in _ranked(hits):
        texts = [str(rank or "="), f"{hit.similarity:.3f}"]
        if with_class:
            texts.append(hit.photo.label or "")
        if with_caption:
            texts.append(hit.photo.caption or "")
        where = hit.photo.path or hit.photo.id
        texts.append(f"{where} ({_SAME})" if hit.same_photo else where)
        # Text of strangers: neither console markup nor what would steer the terminal.
        table.add_row(*(Text(shown(text)) for text in texts))
    return table


def _ranked(hits: Sequence[Hit]) -> list[tuple[int | None, Hit]]:
    """Each hit with its rank from 1, None for the photo itself."""
    ranked: list[tuple[int | None, Hit]] = []
    others = 0
    for hit in hits:
        others += not hit.same_photo
        ranked.append((None if hit.same_photo else others, hit))
    return ranked


def _as_json(index: Index, answers: Answers) -> dict[str, Any]:
    return {
        "index": index.store.name,
        "num_photos": len(index),
        "features": index.features_name,
        "queries": [
            {
                "photo": record.id,
                "hits": [
                    {"similarity": round(hit.similarity, 6), "same_photo": hit.same_photo, **asdict(hit.photo)}
                    for hit in hits
                ],
            }
            for record, hits in answers
        ],
    }


def _sheet(answers: Answers) -> Any:
    """A row a photo: itself first, then what is most like it; of a single photo, as many rows as columns."""
    num_columns = 1 + max(len(hits) for _, hits in answers)
    if len(answers) == 1:
        num_columns = math.ceil(num_columns**0.5)
    blank = np.zeros((_SHEET_SIDE, _SHEET_SIDE, 4), np.uint8)
    pictures, captions = [], []
    for record, hits in answers:
        row = [_thumbnail(record.picture)]
        texts = ["the query"]
        for rank, hit in _ranked(hits):
            picture = _thumbnail(Path(os.fsdecode(as_bytes(hit.photo.path)))) if hit.photo.path else None
            row.append(picture)
            what = _SAME if rank is None else hit.photo.label or ""
            texts.append(f"{hit.similarity:.2f} {what if picture is not None else 'gone'}")
        pictures += [blank + np.uint8(200) if one is None else one for one in row]
        pictures += [blank] * (-len(row) % num_columns)
        captions += [*texts, *[""] * (-len(row) % num_columns)]
    labels = [Path(record.id).name for record, _ in answers] if len(answers) > 1 else None
    return image_grid(
        np.stack(pictures), num_columns=num_columns, captions=captions, row_labels=labels, scale=1, on_paper=True
    )


def _thumbnail(picture: Any) -> np.ndarray | None:
    """uint8 [side, side, 4]; None where the photo is gone."""
    try:
        with pillow_limit_lifted():
            return decode_picture(picture, image_size=(_SHEET_SIDE, _SHEET_SIDE), channels=4, resize="pad")
    except UnreadablePictureError:
        return None
