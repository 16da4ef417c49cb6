"""Files and folders that appear as a whole or not at all, who may write to them, and which of their names to believe.

What is being written lies beside its place under a name of its own, `.vae_ldm-...part`, which nobody else uses. A
folder that replaces another is swapped in by renaming; `finish_swap` ends a swap that a kill has cut off, and whoever
opens such a folder calls it first.
"""

import errno
import functools
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import IO, TYPE_CHECKING, Any

from vae_ldm.errors import DataError, RunError

if TYPE_CHECKING:
    from PIL import Image

_ABANDONED_AFTER_SECONDS = 86_400
"""A temporary file that nobody has touched for a day belongs to nobody, on whatever machine it was begun."""
_TEMPORARY = re.compile(r"\.vae_ldm-(\w+)-(\d+)-\w+\.part")
_NEW, _OLD, _SWAP = "vae_ldm-new", "vae_ldm-old", "vae_ldm-swap"
"""What a folder that is swapped in is called on the way, the one that it replaces, and the lock of both."""


def write_whole(path: Path, content: bytes | str, *, synced: bool = False) -> None:
    """Write a file that a reader meets whole or as it was before; with `synced` it stays after a power cut as well.

    Text becomes UTF-8; the bytes of a file name that is not UTF-8 stay as they are in it. Raises OSError with the
    file's own name, of a full disk too; what was there before is left as it was.
    """
    with written_whole(path, synced=synced) as stream:
        stream.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


@contextmanager
def written_whole(path: Path, *, synced: bool = False) -> Iterator[IO[bytes]]:
    """A stream whose bytes take the place of the file when the block ends well; errors as of `write_whole`."""
    part = _temporary_beside(path)
    with naming(path, part):
        try:
            with part.open("xb") as stream:  # never through a link, never over a file that is there
                yield stream
                if synced:
                    stream.flush()
                    os.fsync(stream.fileno())
            part.replace(path)
            if synced:
                _sync_folder(path.parent)
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
    """Delete a file, folder or link that may be absent; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def let_others_read(folder: Path) -> None:
    """Give every file below `folder` the mode of a new file: safetensors makes its own readable to their owner only."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(folder.stat().st_mode & 0o666)


@contextmanager
def whole_folder(target: Path, *, replaces: bool = True) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, and stays after a power cut.

    Each of several processes that write to one target has a folder of its own; the last to finish replaces the target.
    Without `replaces` the first one does: FileExistsError where there is a target by then.
    """
    remove_abandoned(target.parent)
    part = _temporary_beside(target)
    with naming(target, part):
        part.mkdir(parents=True)
        try:
            yield part
            let_others_read(part)
            _sync_files(part)
            _swap_in(part, target, replaces=replaces)
        except BaseException:
            with suppress(OSError):
                remove(part)
            raise


def finish_swap(target: Path) -> None:
    """End what a killed process left undone when it put a new folder in the place of `target`.

    To be called before `target` is opened. It costs two looks at the disk where nothing is left undone, waits where
    another process is in the middle of it, and does nothing where the disk cannot be written to.
    """
    target = target.absolute()  # "." has no name to put anything beside
    if not any(os.path.lexists(_beside(target, what)) for what in (_NEW, _OLD)):
        return
    try:
        with _swapping(target):
            _finish_swap(target)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def _swap_in(part: Path, target: Path, *, replaces: bool) -> None:
    with _swapping(target):
        _finish_swap(target)
        if not replaces and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists already", str(target))
        part.rename(_beside(target, _NEW))
        _finish_swap(target)
        _sync_folder(target.parent)


def _finish_swap(target: Path) -> None:
    """The rest of a swap, from wherever it was cut off: old one aside, new one in, old one deleted."""
    new, old = _beside(target, _NEW), _beside(target, _OLD)
    if os.path.lexists(new):
        if os.path.lexists(target):
            remove(old)
            target.rename(old)
        new.rename(target)
    if os.path.lexists(old):
        if os.path.lexists(target):
            remove(old)
        else:
            old.rename(target)


@contextmanager
def _swapping(target: Path) -> Iterator[None]:
    """Hold the moment in which a folder changes; another process waits for it."""
    from filelock import FileLock  # it costs every command a moment, and few come here

    lock = _beside(target, _SWAP)
    with FileLock(lock):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows deletes it by itself; who waits for a deleted one tries again
                lock.unlink()


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold the lock file `path`, made where it is missing and never deleted. The lock dies with its process.

    Raises RunError where another process holds it: "MESSAGE (process N on HOST); wait for it, or stop it".
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    with naming(path):
        try:
            lock.acquire()
        except Timeout:
            holder = f" ({known})" if (known := _holder(path)) else ""
            raise RunError(f"{message}{holder}; wait for it, or stop it") from None
    try:
        with suppress(PermissionError):  # Windows lets nobody write to a locked file
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8", errors="replace")[:200].split())
    except OSError:
        return ""


def remove_abandoned(folder: Path) -> None:
    """Delete what killed processes have left half-written in a folder: theirs who are gone, and what is a day old."""
    import psutil

    with suppress(OSError):
        for path in folder.glob(".vae_ldm-*.part"):
            match = _TEMPORARY.fullmatch(path.name)
            if match is None:
                continue
            here, process = match[1] == _machine(), int(match[2])
            if (here and not psutil.pid_exists(process)) or _age(path) > _ABANDONED_AFTER_SECONDS:
                remove(path)


def is_temporary(path: Path) -> bool:
    """Whether the name is one that a file or folder has while it is being written."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _age(path: Path) -> float:
    """Seconds since anything in it was written."""
    return time.time() - max(each.lstat().st_mtime for each in (path, *path.rglob("*")))


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".vae_ldm-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part")


@functools.cache
def _machine() -> str:
    """Stands for the machine, or the container, by whose numbers processes are known."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        namespace = Path()
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def _beside(target: Path, what: str) -> Path:
    return target.parent / f".{target.name}.{what}"


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as stream:  # Windows wants to be allowed to write
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """See to it that names in the folder stay after a power cut; only POSIX systems can be asked to."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def safe_name(name: object, stored_in: Path, *, has_folders: bool = False) -> str:
    """`name`, which was read from the file `stored_in`, where it names something inside that file's own folder.

    With `has_folders` the name may lead through subfolders, separated by "/"; without, it is the name of one file.
    A file that a stranger has written must not decide what is read, overwritten or deleted elsewhere. Raises DataError
    where the name is no text, is empty, absolute, or leads out of the folder by a separator or by "..".
    """
    if not isinstance(name, str) or not _stays_inside(name, has_folders=has_folders):
        raise DataError(
            f"{stored_in}: names {name!r}, which is no file of this folder; it was damaged, or made to reach other "
            "files, so it is not opened"
        )
    return name


def _stays_inside(name: str, *, has_folders: bool) -> bool:
    # A backslash separates folders on Windows only: elsewhere it may be part of a photo's name.
    separators = r"/" if has_folders and os.name != "nt" else r"[/\\]"
    parts = re.split(separators, name)
    if len(parts) > 1 and not has_folders:
        return False
    drive = PureWindowsPath(name).drive if os.name == "nt" or not has_folders else ""
    return "\0" not in name and not drive and all(part not in ("", ".", "..") for part in parts)
