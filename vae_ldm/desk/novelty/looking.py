"""What a detector is fitted on: what is seen in usual photos, in damaged copies of some, and in photos of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vae_ldm.data.decoding import UnreadablePictureError, pillow_limit_lifted
from vae_ldm.data.made_damage import KINDS, DamageKind
from vae_ldm.data.names import as_text
from vae_ldm.data.photo_stream import WholePhotos, decode_within
from vae_ldm.data.sources import Record, photo_digest
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.novelty.backbone_features import damaged_shares
from vae_ldm.desk.novelty.detector_folder import ReferenceNames, StoredPhotos
from vae_ldm.desk.novelty.made_photos import DamageStrength, damage, draw_sources, fit_strengths, stored_thumbnails
from vae_ldm.desk.novelty.observer import LONGEST_SIDE, PhotoObserver
from vae_ldm.errors import DataError
from vae_ldm.latent_space.novelty_scores.cross_fitted import MIN_GROUPS, outer_folds
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures
from vae_ldm.text import counted

COPIES_A_KIND = 75
"""Photos that are damaged in every way; more tell no more of damage."""
_SOURCES_AT_ONCE = 4
"""Photos that are damaged at once: each gives twelve pictures."""


@dataclass(frozen=True, eq=False)
class SeenPhotos:
    """Photos that could be read, and what was seen in them."""

    records: list[Record]
    digests: list[str]
    """SHA-256 of each file; empty for what is no file."""
    features: PhotoFeatures

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def cat(cls, some: "Sequence[SeenPhotos]") -> "SeenPhotos":
        """All photos of several, in order."""
        return cls(
            [record for each in some for record in each.records],
            [digest for each in some for digest in each.digests],
            PhotoFeatures.cat([each.features for each in some]),
        )


def look(command: DeskCommand, observer: PhotoObserver, records: Sequence[Record], what: str) -> SeenPhotos | None:
    """What is seen in photos, in the first process; None in the others, and where none can be read."""

    def seen(batch: WholePhotos) -> SeenPhotos:
        return SeenPhotos(batch.records, list(map(digest_of, batch.records)), observer(batch.pictures))

    with command.progress(f"looking at {what}") as report:
        found = command.over_photos(observer, records, seen, report=report)
    return SeenPhotos.cat(found) if found else None


def digest_of(record: Record) -> str:
    """SHA-256 of a photo's file; empty for what is no file."""
    return photo_digest(record) or ""


def look_at_usual(
    command: DeskCommand, observer: PhotoObserver, reference: Sequence[Record], series: str | None
) -> StoredPhotos | None:
    """What is seen in usual photos and in damaged copies, in the first process; None in the others.

    Raises DataError where fewer than MIN_GROUPS photos can be read.
    """
    seen = look(command, observer, reference, "usual photos")

    def plan() -> tuple[Tensor, list[tuple[int, int]], list[Record], Mapping[DamageKind, DamageStrength]]:
        """What all processes have to know: groups, which photos are damaged, and how strongly."""
        num_readable = 0 if seen is None else len(seen)
        if seen is None or num_readable < MIN_GROUPS:
            command.tell_left_out()
            needed = counted(MIN_GROUPS, "usual photo")
            raise DataError(
                f"too few photos: of {len(reference):,} only {num_readable:,} can be read, and it takes {needed} to "
                "compare with; give more photos"
            )
        groups = photo_groups(seen, series)
        sources = draw_sources(outer_folds(groups), COPIES_A_KIND, seed=1)
        return groups, sources, seen.records, fit_strengths(stored_thumbnails(seen.features))

    groups, sources, records, strengths = command.processes.first(plan)
    copies = _look_at_copies(command, observer, records, sources, strengths)
    if seen is None or copies is None:
        return None
    names = ReferenceNames(
        [record.id for record in seen.records],
        [_lasting_place(record) for record in seen.records],
        seen.digests,
        [False] * len(seen),
        [],
    )
    return StoredPhotos(names, seen.features, copies, groups)


def _lasting_place(record: Record) -> str:
    """The same file, whatever folder the next command is started in."""
    return as_text(record.picture.absolute()) if isinstance(record.picture, Path) else record.place


def photo_groups(seen: SeenPhotos, series: str | None) -> Tensor:
    """Groups of the photos, int64 [N]: equal files, near-duplicates, and photos of one series."""
    first = {}
    return torch.tensor([first.setdefault(digest or str(row), row) for row, digest in enumerate(seen.digests)])


def _look_at_copies(
    command: DeskCommand,
    observer: PhotoObserver,
    records: Sequence[Record],
    sources: Sequence[tuple[int, int]],
    strengths: Mapping[DamageKind, DamageStrength],
) -> MadeCopies | None:
    """What is seen in damaged copies of photos, in the first process; None in the others."""

    def looked_at(some: Sequence[tuple[int, int]]) -> MadeCopies:
        pictures = {row: _decoded(records[row]) for pair in some for row in pair}
        made = [
            (kind, damage(pictures[row], pictures[lender], kind, strengths[kind].strength, (7, row)), (row, lender))
            for kind in KINDS
            for row, lender in some
        ]
        return MadeCopies(
            observer([copy.image for _, copy, _ in made]),
            torch.tensor([KINDS.index(kind) for kind, _, _ in made]),
            torch.tensor([pair for _, _, pair in made]),
            damaged_shares([copy.mask for _, copy, _ in made]),
        )

    chunks = [sources[start : start + _SOURCES_AT_ONCE] for start in range(0, len(sources), _SOURCES_AT_ONCE)]
    with command.progress("looking at made damage") as report:
        found = command.share(chunks, looked_at, report=report)
    return MadeCopies.cat(found) if found else None


def _decoded(record: Record):
    try:
        with pillow_limit_lifted():
            return decode_within(record.picture, LONGEST_SIDE)
    except UnreadablePictureError as error:
        raise DataError(f"{record.place}: cannot be read any more ({error})") from error
