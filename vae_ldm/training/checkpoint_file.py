"""Checkpoints that appear whole or not at all and carry a digest of themselves."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from vae_ldm.errors import WeightsError
from vae_ldm.files import written_whole

# A checkpoint is a zip archive, which ends with a comment and, before it, the comment's length in two bytes.
_DIGEST_NAME = b"sha256:"
_DIGEST_BYTES = len(_DIGEST_NAME) + 64
_NO_COMMENT = bytes(2)


class DigestCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints, with the SHA-256 of all other bytes as the comment of the zip archive.

    A checkpoint is written beside its place and moved there when it is on the disk. Lightning's own way takes the
    system's temporary folder, from which a move to another disk can stop half-way.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getbuffer()
        assert content[-2:] == _NO_COMMENT
        with written_whole(path, synced=True) as file:
            file.write(content[:-2])
            file.write(_DIGEST_BYTES.to_bytes(2, "little"))
            file.write(_DIGEST_NAME + hashlib.sha256(content[:-2]).hexdigest().encode())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """The checkpoint as Lightning reads it. Raises WeightsError where the file is not what was written."""
        check_whole(Path(path))
        return super().load_checkpoint(path, *args, **options)


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """What DigestCheckpointIO wrote to `path`, on the CPU; nothing but tensors and plain values is unpickled.

    With `mmap` tensors stay on the disk until they are used. Raises WeightsError where the file is not what was
    written.
    """
    check_whole(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def check_whole(path: Path) -> None:
    """Raise WeightsError where the file differs in any bit from what DigestCheckpointIO wrote, or is not there."""
    if not is_whole(path):
        raise WeightsError(f"{path}: is damaged; take another checkpoint")


def is_whole(path: Path) -> bool:
    """The file is, to the bit, what DigestCheckpointIO wrote."""
    try:
        length = path.stat().st_size - _DIGEST_BYTES - 2
        with path.open("rb") as file:
            digest = hashlib.sha256()
            for block in _blocks(file, length):
                digest.update(block)
            return file.read() == _DIGEST_BYTES.to_bytes(2, "little") + _DIGEST_NAME + digest.hexdigest().encode()
    except OSError:
        return False


def _blocks(file: Any, length: int) -> Iterator[bytes]:
    while length > 0 and (block := file.read(min(length, 2**20))):
        length -= len(block)
        yield block
