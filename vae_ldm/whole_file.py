"""Files that appear as a whole or not at all, and errors that name them as the user does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes | str, *, synced: bool = False) -> None:
    """Write a file that a reader meets whole or as it was before; with `synced` it stays after a power cut as well.

    Text becomes UTF-8, in it file names that are none the bytes that they are. Raises OSError with the file's own name,
    of a full disk too; what was there before is left as it was.
    """
    part = path.with_name(path.name + ".part")
    with naming(path, part):
        try:
            with part.open("wb") as stream:
                stream.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
                if synced:
                    stream.flush()
                    os.fsync(stream.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):  # a disk that takes nothing, whose error would hide the first one
                part.unlink()
            raise


@contextmanager
def naming(path: Path, part: Path | None = None) -> Iterator[None]:
    """The system's errors are raised as of `path`: those that name no file, and those of `part` or of what is in it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        elif part is not None and isinstance(error.filename, str | Path):
            place = Path(error.filename)
            if place.is_relative_to(part):
                error.filename = str(path / place.relative_to(part))
        raise
