import random
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_ldm.errors import WeightsError
from vae_ldm.training.checkpoint_file import DigestCheckpointIO, is_whole, read_checkpoint

CONTENT: dict[str, Any] = {"step": 3, "weights": {"a": torch.arange(1000.0)}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "step=3.ckpt"
    DigestCheckpointIO().save_checkpoint(CONTENT, path)
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_a_checkpoint_with_a_digest_is_an_ordinary_one(checkpoint, mmap):
    assert is_whole(checkpoint)
    loaded = torch.load(checkpoint, weights_only=True, mmap=mmap)
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["a"], CONTENT["weights"]["a"])
    assert [path.name for path in checkpoint.parent.iterdir()] == ["step=3.ckpt"]


def test_every_flipped_bit_and_every_cut_is_noticed(checkpoint):
    content = checkpoint.read_bytes()
    chance = random.Random(0)
    for place in [0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(60))]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        checkpoint.write_bytes(damaged)
        assert not is_whole(checkpoint)
        checkpoint.write_bytes(content[:place])
        assert not is_whole(checkpoint)
    checkpoint.write_bytes(content)
    assert is_whole(checkpoint)


def test_nobody_reads_a_damaged_one(checkpoint):
    assert DigestCheckpointIO().load_checkpoint(checkpoint, weights_only=True)["step"] == 3
    assert read_checkpoint(checkpoint, mmap=True)["step"] == 3
    content = bytearray(checkpoint.read_bytes())
    content[content.find(CONTENT["weights"]["a"].numpy().tobytes()) + 7] ^= 0x40
    checkpoint.write_bytes(content)
    for read in (DigestCheckpointIO().load_checkpoint, read_checkpoint):
        with pytest.raises(WeightsError, match=r"step=3\.ckpt: is damaged; take another checkpoint$"):
            read(checkpoint)


def test_what_is_none_is_not_whole(tmp_path):
    assert not is_whole(tmp_path / "absent")
    (tmp_path / "empty").touch()
    assert not is_whole(tmp_path / "empty")
    torch.save(CONTENT, tmp_path / "without_digest")
    assert not is_whole(tmp_path / "without_digest")


def test_a_failed_write_leaves_the_one_before(checkpoint, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = checkpoint.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        DigestCheckpointIO().save_checkpoint({"step": 4}, checkpoint)
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["step=3.ckpt"]
