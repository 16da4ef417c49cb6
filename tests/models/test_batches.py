"""Memory bounded whatever the pictures' size: fewer at once of larger ones, and half where it runs out all the same."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vae_ldm.data.pictures import Pictures
from vae_ldm.data.posterior_cache import PosteriorDataset, cache_posteriors
from vae_ldm.errors import RunError
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.models.autoencoder import new_autoencoder
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.latent_scaling import half_precision_psnr, reconstruct


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [((32, 32), 64), ((256, 256), 64), ((192, 256), 64), ((512, 512), 16), ((1024, 1024), 4), ((8192, 8192), 1)],
)
def test_as_many_as_ever_up_to_256_px_then_by_pixels(image_size, expected):
    assert batch_size_for(image_size, most=64) == expected


class Memory:
    """Room for a number of pictures at once."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.error = room, error or torch.OutOfMemoryError("CUDA out of memory")
        self.sizes: list[int] = []

    def __call__(self, items: Any) -> list[int]:
        self.sizes.append(len(items))
        if len(items) > self.room:
            raise self.error
        return list(items)


@pytest.mark.parametrize(
    "error", [None, RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.")]
)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_left_out_or_done_twice(error):
    memory = Memory(3, error)
    assert [item for batch in in_batches(memory, range(14), 8) for item in batch] == list(range(14))
    assert memory.sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2]


def test_what_does_not_fit_at_all_and_what_is_another_error_are_raised():
    with pytest.raises(RunError, match="not one picture fits into memory"):
        list(in_batches(Memory(0), range(4), 4))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(in_batches(Memory(0, RuntimeError("a mistake of ours")), range(4), 4))


class Features:
    """An embedding that is the mean of each channel."""

    embedding_dim = 3
    mean = torch.zeros(1)

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def embed(self, images: Tensor) -> Tensor:
        self.memory(images)
        return images.mean((2, 3))


def test_embeddings_posteriors_and_reconstructions_go_through_it(tmp_path, nano_networks, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    whole = embed_pictures(Features(Memory(99)), pictures)  # type: ignore[arg-type]
    memory = Memory(4)
    assert torch.equal(embed_pictures(Features(memory), pictures), whole)  # type: ignore[arg-type]
    assert max(size for size in memory.sizes if size <= memory.room) == 2

    torch.manual_seed(0)
    autoencoder = new_autoencoder("tiny", downsample_factor=4, latent_channels=4, image_channels=3, image_size=(16, 16))
    autoencoder.eval().requires_grad_(False)
    images = torch.rand(10, 3, 16, 16) * 2 - 1
    exact, psnr = reconstruct(autoencoder, images), half_precision_psnr(autoencoder, images)
    encode, room = autoencoder.encode, Memory(4)

    def bounded(batch: Tensor) -> Any:
        room(batch)
        return encode(batch)

    monkeypatch.setattr(autoencoder, "encode", bounded)
    torch.testing.assert_close(reconstruct(autoencoder, images), exact)
    assert room.sizes == [10, 5, 2, 2, 2, 2, 2]
    assert half_precision_psnr(autoencoder, images) == pytest.approx(psnr, abs=2)  # another batch is rounded otherwise

    split = Pictures(pictures, np.zeros(10, np.int64), [""] * 10, [str(number) for number in range(10)], ["one"])
    cache_posteriors(lambda batch: bounded(batch).latent_dist, split, tmp_path, key="k", batch_size=8)
    found = PosteriorDataset(tmp_path, torch.zeros(10, 2), seed=0, augment=False)
    expected = encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(found.mean[:, 0], expected)
