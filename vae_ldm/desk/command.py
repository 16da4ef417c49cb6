"""What every verb of the desk opens with: where it speaks, which processes work, and what becomes of unreadable photos.

Where a verb may write is the policy of `vae_ldm.paths`: nothing that is there is replaced.

A verb makes one DeskCommand, looks at its paths, works, calls `tell_left_out` and hands over its result; last it calls
`check_left_out`, which fails only when the work on all other photos is done.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from torch import distributed

from vae_ldm import starter
from vae_ldm.choices import Resize
from vae_ldm.data.crop_advice import unseen_advice
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.sources import Record
from vae_ldm.data.unreadable import Unreadable, left_out_lines
from vae_ldm.desk.foreign_photos import foreign_advice, learned_advice
from vae_ldm.errors import DataError
from vae_ldm.hardware import prepare_cpu
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.processes import Processes
from vae_ldm.terminal import StepReport, new_console, new_output, quieten_libraries
from vae_ldm.text import counted

B = TypeVar("B", covariant=True)
S = TypeVar("S")
T = TypeVar("T")
Progress = Callable[[int, int], None]

BATCH_SIZE = 32
"""Photos that are encoded at once. It is the same for any number of processes, and so is what is found, bit for bit."""


class DecodesPhotos(Protocol[B]):
    """What decodes photos as it looks at them: a PhotoEncoder, or whatever sees them in another way."""

    def batches(
        self, records: Sequence[Record], *, batch_size: int, on_unreadable: Callable[[Record, str], None]
    ) -> Iterable[B]:
        """The photos in order; those that cannot be read are told and passed over."""


class DeskCommand:
    """One call of a verb: its console, its processes, and the photos that it leaves out."""

    def __init__(self, *, launched: bool = False, width: int | None = None, told: set[str] | None = None) -> None:
        """`launched` joins the processes that `accelerate launch` has started; `width` is that of printed tables.

        `told` is shared by commands that look at the same photos one after the other: what one has told of them, the
        next does not tell again.
        """
        prepare_cpu()
        quieten_libraries()
        self.processes = Processes.launched() if launched else Processes()
        self.console = new_console(quiet=not self.processes.is_first)
        self.output = new_output(width=width, quiet=not self.processes.is_first, works_on=True)
        self.unreadable = Unreadable()
        self._told: set[str] = set() if told is None else told

    def say(self, line: object) -> None:
        """One line for the user, on the standard error."""
        self.console.say(line)

    def hand_over(self, line: object) -> None:
        """One line of the result, on the standard output."""
        self.output.say(line)

    def progress(self, what: str) -> StepReport:
        """A bar, or lines where there is no terminal, that say how much of `what` is done."""
        return StepReport(what, self.console)

    def photo_records(self, photos: Path | str, *, caption_column: str | None = None) -> list[Record]:
        """The photos that the user names, as records; folders that cannot be looked into count as left out."""
        return photo_records(
            photos,
            caption_column=caption_column,
            on_unreadable_folder=lambda name: self.unreadable.add_folder(Path(photos) / name),
        )

    def leave_out(self, record: Record, reason: str) -> None:
        """Note a photo that cannot be read: for `on_unreadable` of what decodes photos."""
        self.unreadable.add(record.id, reason)

    def tell_left_out(self) -> None:
        """Name the photos that were left out: the first few, each with the reason, and how many more there are."""
        new = [line for line in self.unreadable.each() if line not in self._told]
        self._told.update(new)
        for line in left_out_lines(new):
            self.say(line)

    def starter(self) -> str:
        """The starter as a source, for a verb that is given no model; that it is taken is told."""
        self._tell_once(
            "starter", lambda: f"no model is named, so the {starter.STARTER} that comes with vae_ldm is taken"
        )
        return str(starter.STARTER_FOLDER)

    def tell_learned(self, sources: Sequence[str], records: Sequence[Record]) -> str | None:
        """Say so where the starter is among the models and has learned from some of the photos; the line, or None."""
        if not any(map(starter.is_starter, sources)):
            return None
        line = self.processes.first(lambda: learned_advice(records))
        if line is not None:
            self.say(line)
        return line

    def tell_unseen(self, records: Sequence[Record], image_size: tuple[int, int], resize: Resize) -> None:
        """Say so where the crop to `image_size` (height, width) shows less than the whole of a typical photo."""
        self._tell_once("unseen", lambda: unseen_advice(records, image_size, resize))

    def tell_foreign(self, source: str, autoencoder: ImageAutoencoder, records: Sequence[Record]) -> None:
        """Say so where the run `source` reconstructs the photos far worse than its own validation photos."""
        self._tell_once("foreign", lambda: foreign_advice(source, autoencoder, records))

    def _tell_once(self, what: str, advice: Callable[[], str | None]) -> None:
        if what not in self._told:
            self._told.add(what)
            if line := self.processes.first(advice):
                self.say(line)

    def check_left_out(self, num_photos: int, done: str) -> None:
        """Raise ManyUnreadableError in the first process where over 1 % of `num_photos` were left out, or a folder.

        `done` says what became of the others. Call it last: the exit code is 2, and all the work is done.
        """
        self.processes.first(lambda: self.unreadable.check(num_photos, done))

    def refuse_all_left_out(self, what: str) -> None:
        """Raise DataError: no photo is left. `what` names them, such as "48 photos of FOLDER"."""
        lines = list(self.unreadable.each())
        more = f"; nor can {counted(len(lines) - 1, 'more photo')}" if len(lines) > 1 else ""
        raise DataError(f"none of {what} can be read ({lines[0] if lines else 'there are none'}{more})")

    def share(
        self, items: Sequence[S], work: Callable[[S], T], *, report: Progress | None = None, everywhere: bool = False
    ) -> list[T]:
        """What `work` gives for each item, in their order; process r of R works on every R-th item, from the r-th.

        The first process has all of it, the others nothing unless `everywhere`. `report` hears how many items of how
        many are done.
        """
        rank, count = self.processes.rank, self.processes.count
        own = []
        for place in range(rank, len(items), count):
            own.append(work(items[place]))
            if report is not None:
                report(min(place + count, len(items)), len(items))
        if count == 1:
            return own
        shares: list[list[T]] = [[] for _ in range(count)]
        if everywhere:
            shares = self.processes.gather(own)
        else:
            distributed.gather_object(
                own, shares if self.processes.is_first else None, dst=0, group=self.processes.group
            )
            if not self.processes.is_first:
                return []
        return [shares[place % count][place // count] for place in range(len(items))]

    def share_batches(
        self,
        records: Sequence[S],
        work: Callable[[Sequence[S]], T],
        *,
        report: Progress | None = None,
        everywhere: bool = False,
    ) -> list[T]:
        """Share batches of BATCH_SIZE records as `share` does; `report` hears how many records of how many are done."""

        def in_records(done: int, _: int) -> None:
            if report is not None:
                report(min(done * BATCH_SIZE, len(records)), len(records))

        batches = [records[start : start + BATCH_SIZE] for start in range(0, len(records), BATCH_SIZE)]
        return self.share(batches, work, report=in_records, everywhere=everywhere)

    def over_photos(
        self,
        decoder: DecodesPhotos[B],
        records: Sequence[Record],
        work: Callable[[B], T],
        *,
        report: Progress | None = None,
    ) -> list[T]:
        """What `work` gives for every batch of decoded photos, in their order, in the first process; see `share`.

        Photos that cannot be read are left out. `report` hears how many photos of how many are done.
        """

        def look(some: Sequence[Record]) -> tuple[list[T], list[tuple[str, str]]]:
            left_out: list[tuple[str, str]] = []

            def leave_out(record: Record, reason: str) -> None:
                left_out.append((record.id, reason))

            found = decoder.batches(some, batch_size=BATCH_SIZE, on_unreadable=leave_out)
            return [work(batch) for batch in found], left_out

        shared = self.share_batches(records, look, report=report)
        for _, left_out in shared:
            self.unreadable.extend(left_out)
        return [one for found, _ in shared for one in found]
