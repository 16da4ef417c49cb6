"""Tensors of many items, computed once and kept in safetensors shards that an interrupted call goes on with."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vae_ldm.errors import DataError
from vae_ldm.files import safe_name, write_whole
from vae_ldm.stored_json import StoredKind, content_of

Make = Callable[[int, int], dict[str, Tensor]]
"""Tensors [stop - start, ...], by name, of the items from start to stop."""

_INDEX = "index.json"
_KIND = StoredKind(newest=2, digest_from=2, unnumbered=1, cure="delete its folder, and it is made anew")
_DIGEST = ".sha256"


@dataclass(frozen=True)
class _Index:
    """What index.json holds."""

    key: str
    shard_size: int
    num_images: int
    shards: dict[str, str | None]
    """Name -> SHA-256 of each shard."""
    complete: bool


def write_shards(
    make: Make,
    num_items: int,
    folder: Path,
    *,
    name: str,
    key: str,
    shard_size: int,
    rank: int = 0,
    num_replicas: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """Writes what `make` gives of all items to safetensors shards called `name` in `folder`.

    `key` stands for everything the numbers follow from: shards of another key are deleted, whole ones of this key are
    kept. The index is written last and makes the folder valid.

    Several processes share one disk: replica r of R writes every R-th shard, beginning with r, and the first one writes
    the index. `wait` comes back when all have called it.
    """
    names = [f"{name}-{number:05d}.safetensors" for number in range(-(-num_items // shard_size))]
    facts = {"key": key, "shard_size": shard_size, "num_images": num_items}
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        index = _read_index(folder)
        if index is None or any(index.get(fact) != value for fact, value in facts.items()):
            for stale in [*folder.glob("*.safetensors"), *folder.glob(f"*{_DIGEST}")]:
                stale.unlink()
            _write_index(folder, {**facts, "shards": {}, "complete": False})
    wait()
    for number in range(rank, len(names), num_replicas):
        shard, start = folder / names[number], number * shard_size
        if _is_whole(shard, _read_digest(shard)):
            continue
        made = make(start, min(start + shard_size, num_items))
        part_file = folder / (shard.name + ".part")
        # Contiguous: stacked views of one latent channel keep strides that safetensors refuses.
        save_file({part: values.contiguous() for part, values in made.items()}, part_file)
        digest = _sha256(part_file)
        part_file.replace(shard)
        write_whole(_digest_file(shard), digest)
    wait()
    if rank == 0:
        shards = {each: _read_digest(folder / each) for each in names}
        _write_index(folder, {**facts, "shards": shards, "complete": True})
        for each in names:
            _digest_file(folder / each).unlink(missing_ok=True)
    wait()


def has_shards(folder: Path, *, key: str) -> bool:
    """The folder holds all shards for `key`, and they are as they were written."""
    index = _read_index(folder)
    return (
        index is not None
        and index["key"] == key
        and index["complete"]
        and all(_is_whole(folder / name, digest) for name, digest in index["shards"].items())
    )


def read_shards(folder: Path) -> dict[str, Tensor]:
    """The tensors of all items, by name."""
    index = _read_index(folder)
    assert index is not None, f"{folder} holds no shards"
    shards = [load_file(folder / name) for name in sorted(index["shards"])]
    return {part: torch.cat([shard[part] for shard in shards]) for part in shards[0]}


def _read_index(folder: Path) -> dict[str, Any] | None:
    """What the index says; None where there is none, or one that is not as it was written: all is made anew."""
    file = folder / _INDEX
    try:
        index = content_of(_KIND.read(file))
        _KIND.typed(file, _Index, index)
        for name in index["shards"]:
            safe_name(name, file)
    except (FileNotFoundError, DataError):
        return None
    return index


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    _KIND.write(folder / _INDEX, index)


def _digest_file(shard: Path) -> Path:
    return shard.with_name(shard.name + _DIGEST)


def _read_digest(shard: Path) -> str | None:
    """What its writer said of a shard: in a file of its own until the index is written."""
    file = _digest_file(shard)
    if file.is_file():
        return file.read_text()
    index = _read_index(shard.parent)
    return None if index is None else index["shards"].get(shard.name)


def _is_whole(shard: Path, digest: str | None) -> bool:
    return digest is not None and shard.is_file() and _sha256(shard) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
