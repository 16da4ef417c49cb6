"""Files and folders that appear as a whole or not at all, and errors that name them as the user does."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


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


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as a whole or not at all."""
    write_whole(path, json.dumps(content, indent=1))


def write_picture(path: Path, picture: "Image.Image", **options: Any) -> None:
    """Write the picture to `path`, a PNG with Pillow's `options`, as a whole or not at all."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    write_whole(path, stream.getvalue())


def remove(path: Path) -> None:
    """Delete a file or folder that may be absent."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def let_others_read(folder: Path) -> None:
    """Give every file below `folder` the mode of a new file: safetensors makes its own readable to their owner only."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(folder.stat().st_mode & 0o666)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well."""
    part = target.with_name(target.name + ".part")
    with naming(target, part):
        remove(part)
        part.mkdir(parents=True)
        yield part
        let_others_read(part)
        remove(target)
        part.rename(target)
