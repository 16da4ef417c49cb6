"""What a detector is fitted on: what is seen in usual photos, in damaged copies of some, and in photos of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_ldm.data.decoding import UnreadablePictureError, pillow_limit_lifted
from vae_ldm.data.made_damage import KINDS, DamageKind
from vae_ldm.data.names import as_text
from vae_ldm.data.near_duplicates import difference_hash, duplicate_thumbnail
from vae_ldm.data.photo_groups import photo_groups
from vae_ldm.data.photo_stream import WholePhotos, decode_within
from vae_ldm.data.sources import Record, photo_digest
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.novelty.backbone_features import damaged_shares
from vae_ldm.desk.novelty.detector_folder import ReferenceNames, StoredPhotos
from vae_ldm.desk.novelty.made_photos import DamageStrength, damage, draw_sources, fit_strengths
from vae_ldm.desk.novelty.observer import LONGEST_SIDE, PhotoObserver
from vae_ldm.errors import DataError
from vae_ldm.latent_space.novelty_scores.cross_fitted import MIN_GROUPS, outer_folds
from vae_ldm.latent_space.novelty_scores.patch_memory import farthest_first
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, MorePlaces, PhotoFeatures
from vae_ldm.text import counted

MAX_KEPT = 4_000
"""Of so many photos all features are kept, 75 KB each. Further ones go into the memory of places, by batches."""
MORE_PLACES = 60_000
"""So many places of further photos are kept, and at least one of each photo."""
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
    hashes: np.ndarray
    """`difference_hash` of each: uint64 [N]."""
    thumbnails: np.ndarray
    """`duplicate_thumbnail` of each: uint8 [N, 32, 32, 3]."""
    features: PhotoFeatures

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def cat(cls, some: "Sequence[SeenPhotos]") -> "SeenPhotos":
        """All photos of several, in order."""
        return cls(
            [record for each in some for record in each.records],
            [digest for each in some for digest in each.digests],
            np.concatenate([each.hashes for each in some]),
            np.concatenate([each.thumbnails for each in some]),
            PhotoFeatures.cat([each.features for each in some]),
        )


def look(command: DeskCommand, observer: PhotoObserver, records: Sequence[Record], what: str) -> SeenPhotos | None:
    """What is seen in photos, in the first process; None in the others, and where none can be read."""

    def seen(batch: WholePhotos) -> SeenPhotos:
        return SeenPhotos(
            batch.records,
            list(map(digest_of, batch.records)),
            np.array(list(map(difference_hash, batch.pictures))),
            np.stack(list(map(duplicate_thumbnail, batch.pictures))),
            observer(batch.pictures),
        )

    with command.progress(f"looking at {what}") as report:
        found = command.over_photos(observer, records, seen, report=report)
    return SeenPhotos.cat(found) if found else None


@dataclass(frozen=True, eq=False)
class _SeenMore:
    """What is kept of a batch of further photos."""

    ids: list[str]
    digests: list[str]
    hashes: np.ndarray
    thumbnails: np.ndarray
    places: Tensor
    """[M, C], in half precision"""
    photos: Tensor
    """int64 [M]: which photo of the batch each place is of."""


def _look_at_more(command: DeskCommand, observer: PhotoObserver, records: Sequence[Record]) -> list[_SeenMore]:
    """Places of further photos, chosen as a coreset of each batch, in the first process."""
    each = max(1, MORE_PLACES // max(1, len(records)))

    def seen(batch: WholePhotos) -> _SeenMore:
        patches = observer(batch.pictures).patches
        rows = farthest_first(patches.flatten(0, 1).float(), each * len(batch))
        return _SeenMore(
            [record.id for record in batch.records],
            list(map(digest_of, batch.records)),
            np.array(list(map(difference_hash, batch.pictures))),
            np.stack(list(map(duplicate_thumbnail, batch.pictures))),
            patches.flatten(0, 1)[rows],
            rows // patches.shape[1],
        )

    with command.progress("looking at further usual photos") as report:
        return command.over_photos(observer, records, seen, report=report)


def digest_of(record: Record) -> str:
    """SHA-256 of a photo's file; empty for what is no file."""
    return photo_digest(record) or ""


def look_at_usual(
    command: DeskCommand, observer: PhotoObserver, reference: Sequence[Record], series: str | None
) -> StoredPhotos | None:
    """What is seen in usual photos and in damaged copies, in the first process; None in the others.

    Raises DataError where fewer than MIN_GROUPS photos can be read.
    """
    seen = look(command, observer, reference[:MAX_KEPT], "usual photos")
    more = _look_at_more(command, observer, reference[MAX_KEPT:])

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
        groups = groups_of(seen, series, more)
        if (num_groups := len(groups.unique())) < MIN_GROUPS:
            command.tell_left_out()
            are = "is" if num_groups == 1 else "are"
            raise DataError(
                f"too few photos: of {num_readable:,} only {num_groups:,} {are} different "
                f"(near-duplicates and photos of one series count once), and it takes "
                f"{counted(MIN_GROUPS, 'usual photo')} to compare with; give more photos"
            )
        sources = draw_sources(outer_folds(groups[: len(seen)]), COPIES_A_KIND, seed=1)
        return groups, sources, seen.records, fit_strengths(list(seen.thumbnails))

    groups, sources, records, strengths = command.processes.first(plan)
    copies = _look_at_copies(command, observer, records, sources, strengths)
    if seen is None or copies is None:
        return None
    names = ReferenceNames(
        [record.id for record in seen.records],
        [_lasting_place(record) for record in seen.records],
        seen.digests,
        [False] * len(seen),
        [name for batch in more for name in batch.ids],
    )
    return StoredPhotos(names, seen.features, copies, groups[: len(seen)], _more_places(more, groups[len(seen) :]))


def _more_places(more: Sequence[_SeenMore], groups: Tensor) -> MorePlaces | None:
    """The places of all batches; `groups` are those of the photos, int64 [n]."""
    if not more:
        return None
    of_batches = torch.arange(len(groups)).split([len(batch.ids) for batch in more])
    photos = torch.cat([of_batch[batch.photos] for of_batch, batch in zip(of_batches, more, strict=True)])
    return MorePlaces(len(groups), torch.cat([batch.places for batch in more]), photos, groups[photos])


def _lasting_place(record: Record) -> str:
    """The same file, whatever folder the next command is started in."""
    return as_text(record.picture.absolute()) if isinstance(record.picture, Path) else record.place


def groups_of(seen: SeenPhotos, series: str | None, more: Sequence[_SeenMore] = ()) -> Tensor:
    """Groups of the photos, int64 [N]: equal files, near-duplicates, and photos of one series. Raises DataError."""
    digests = seen.digests + [digest for batch in more for digest in batch.digests]
    groups = photo_groups(
        [record.id for record in seen.records] + [name for batch in more for name in batch.ids],
        hashes=np.concatenate([seen.hashes, *(batch.hashes for batch in more)]),
        thumbnails=np.concatenate([seen.thumbnails, *(batch.thumbnails for batch in more)]),
        digests=[digest or str(row) for row, digest in enumerate(digests)],
        pattern=series,
    )
    return torch.from_numpy(groups)


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
        seen = observer([copy.image for _, copy, _ in made])
        return MadeCopies(
            seen,
            torch.tensor([KINDS.index(kind) for kind, _, _ in made]),
            torch.tensor([pair for _, _, pair in made]),
            damaged_shares([copy.mask for _, copy, _ in made], seen.patches.shape[1]),
        )

    chunks = [sources[start : start + _SOURCES_AT_ONCE] for start in range(0, len(sources), _SOURCES_AT_ONCE)]
    with command.progress("looking at made damage") as report:
        found = command.share(chunks, looked_at, report=report)
    return MadeCopies.cat(found) if found else None


def _decoded(record: Record) -> np.ndarray:
    try:
        with pillow_limit_lifted():
            return decode_within(record.picture, LONGEST_SIDE)
    except UnreadablePictureError as error:
        raise DataError(f"{record.place}: cannot be read any more ({error})") from error
