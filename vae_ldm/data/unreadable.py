"""Photos that cannot be read: one way to collect them, one wording, and one limit."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vae_ldm.data.names import as_text
from vae_ldm.errors import ManyUnreadableError
from vae_ldm.files import write_whole
from vae_ldm.text import counted, shown

MAX_UNREADABLE_SHARE = 0.01
MAX_SHOWN = 5


class Unreadable:
    """The photos that a command leaves out, each with the reason.

    A command adds each of them, prints `lines()` at its end, and then calls `check`, so that the work on the others is
    done before the error.

    >>> unreadable = Unreadable()
    >>> unreadable.add("dent/3.jpg", "the file does not exist")
    >>> list(unreadable.lines())
    ['left out dent/3.jpg: the file does not exist']
    """

    def __init__(self, *, max_share: float | None = None) -> None:
        """`max_share` None is MAX_UNREADABLE_SHARE."""
        self._max_share = MAX_UNREADABLE_SHARE if max_share is None else max_share
        self.photos: list[tuple[str, str]] = []
        """Id and reason of each photo, in the order of adding."""
        self.folders: list[str] = []
        """Folders of photos that cannot be looked into, so that nobody knows how many photos lie there."""

    def add(self, photo_id: str, reason: str) -> None:
        """Leave out one photo."""
        self.photos.append((photo_id, reason))

    def add_folder(self, folder: Path) -> None:
        """Leave out all photos of a folder that cannot be looked into; a command may list it several times."""
        if (name := as_text(str(folder))) not in self.folders:
            self.folders.append(name)

    def extend(self, photos: Iterable[tuple[str, str]]) -> None:
        """Leave out the photos that another process has left out."""
        self.photos.extend(photos)

    def __len__(self) -> int:
        return len(self.photos)

    def __bool__(self) -> bool:
        return bool(self.photos or self.folders)

    def each(self) -> Iterator[str]:
        """`NAME: reason` of every photo, each in one line."""
        return (f"{shown(photo_id)}: {shown(reason)}" for photo_id, reason in self.photos)

    def lines(self) -> Iterator[str]:
        """`left out NAME: reason` for the first MAX_SHOWN photos, then how many more there are."""
        yield from left_out_lines(list(self.each()))

    def check(self, num_photos: int, done: str) -> None:
        """Raise ManyUnreadableError where more than `max_share` of `num_photos` are left out, or a folder is.

        `done` says what became of the others, such as "the others are in the index".
        """
        found = []
        if len(self) > self._max_share * num_photos:
            found.append(f"{len(self):,} of {counted(num_photos, 'photo')} cannot be read")
        if self.folders:
            more = f" and {len(self.folders) - 1:,} more" if len(self.folders) > 1 else ""
            folders = f"the folder {shown(self.folders[0])}{more}"
            found.append(f"{folders} cannot be looked into, so that nobody knows how many photos are left out")
        if found:
            raise ManyUnreadableError(f"{', and '.join(found)}; {done}")

    def write(self, file: Path) -> None:
        """List all of them in a file, one a line; where there are none, remove the file."""
        if self.photos:
            write_whole(file, "".join(f"{line}\n" for line in self.each()))
        else:
            file.unlink(missing_ok=True)


def left_out_lines(unreadable: Sequence[str]) -> Iterator[str]:
    """`left out NAME: reason` for the first MAX_SHOWN of the `NAME: reason`, then how many more there are."""
    yield from (f"left out {line}" for line in unreadable[:MAX_SHOWN])
    if len(unreadable) > MAX_SHOWN:
        yield f"left out {len(unreadable) - MAX_SHOWN:,} more"
