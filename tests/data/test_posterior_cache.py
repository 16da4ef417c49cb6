import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from vae_ldm.data.pictures import Pictures
from vae_ldm.data.posterior_cache import PosteriorDataModule, PosteriorDataset, cache_posteriors, has_posteriors
from vae_ldm.data.sampling import Batch
from vae_ldm.models.autoencoder import new_autoencoder


@pytest.fixture
def pictures() -> Pictures:
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    return Pictures(images, np.zeros(10, np.int64), [""] * 10, [str(i) for i in range(10)], ["one"])


class Encode:
    """The picture, shrunk, as mean; half of it as log-variance. Counts pictures, and stops where it is told to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.num_images = 0
        self.stop_at = stop_at

    def __call__(self, images: Tensor) -> DiagonalGaussianDistribution:
        if self.stop_at is not None and self.num_images + len(images) > self.stop_at:
            raise KeyboardInterrupt
        self.num_images += len(images)
        mean = torch.nn.functional.avg_pool2d(images, 2)
        return DiagonalGaussianDistribution(torch.cat([mean, mean / 2], dim=1))


def cache(encode: Encode, pictures: Pictures, folder: Path, key: str = "k", **settings: Any) -> None:
    cache_posteriors(encode, pictures, folder, key=key, **{"batch_size": 2, "shard_size": 4} | settings)


def dataset(folder: Path, *, seed: int = 0, augment: bool = False) -> PosteriorDataset:
    return PosteriorDataset(folder, torch.arange(20).view(10, 2), seed=seed, augment=augment)


def everything(number: int = 0) -> Batch:
    return Batch(number, np.arange(10))


def test_every_posterior_in_order(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path)
    posterior = Encode()(torch.from_numpy(pictures.images).permute(0, 3, 1, 2) / 127.5 - 1)
    batch = dataset(tmp_path)[everything()]
    torch.testing.assert_close(batch["mean"], posterior.mean)
    torch.testing.assert_close(batch["std"], torch.exp(posterior.logvar / 2))
    assert batch["prompt_ids"].tolist() == torch.arange(20).view(10, 2).tolist()
    assert batch["mean"].dtype == batch["std"].dtype == torch.float32


@pytest.mark.parametrize("flips", [False, True])
def test_latents_of_one_channel_are_cached(tmp_path, flips):
    autoencoder = new_autoencoder("tiny", downsample_factor=4, latent_channels=1, image_channels=1, image_size=(24, 40))

    def encode(images: Tensor) -> DiagonalGaussianDistribution:
        mean, logvar = autoencoder.encode(images).latent_dist.parameters.chunk(2, dim=1)
        return DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1))

    images = np.random.default_rng(0).integers(0, 256, (4, 24, 40, 1), dtype=np.uint8)
    grey = Pictures(images, np.zeros(4, np.int64), [""] * 4, list("abcd"), ["one"])
    cache_posteriors(encode, grey, tmp_path, key="k", flips=flips, batch_size=2)
    assert has_posteriors(tmp_path, key="k")


def test_indices_choose_pictures_across_shards(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path)
    whole = dataset(tmp_path)[everything()]
    part = dataset(tmp_path)[Batch(0, np.array([9, 0, 4]))]
    for name, values in part.items():
        assert torch.equal(values, whole[name][[9, 0, 4]])


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_interrupted_call_goes_on_with_the_next_shard(pictures, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cache(Encode(stop_at=6), pictures, tmp_path)
    assert not has_posteriors(tmp_path, key="k")
    rest = Encode()
    cache(rest, pictures, tmp_path)
    assert rest.num_images == 6  # the first shard of 4 was whole
    assert has_posteriors(tmp_path, key="k")

    cache(Encode(), pictures, tmp_path / "whole")
    for name, values in dataset(tmp_path)[everything()].items():
        assert torch.equal(values, dataset(tmp_path / "whole")[everything()][name])


def test_a_finished_cache_is_not_computed_again(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path)
    again = Encode()
    cache(again, pictures, tmp_path)
    assert again.num_images == 0


def test_another_key_computes_all_anew(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path, key="old")
    assert not has_posteriors(tmp_path, key="new")
    again = Encode()
    cache(again, pictures, tmp_path, key="new")
    assert again.num_images == 10
    assert has_posteriors(tmp_path, key="new")
    assert not has_posteriors(tmp_path, key="old")


def test_stale_shards_are_gone_when_fewer_are_needed(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path, key="old")
    fewer = Pictures(pictures.images[:3], pictures.labels[:3], [""] * 3, ["a", "b", "c"], ["one"])
    cache(Encode(), fewer, tmp_path, key="new")
    assert len(PosteriorDataset(tmp_path, torch.zeros(3, 2), seed=0, augment=False)) == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_shard_is_noticed_and_it_alone_is_computed_again(pictures, tmp_path, damage):
    cache(Encode(), pictures, tmp_path)
    before = dataset(tmp_path)[everything()]
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    if damage == "flip":
        shard.write_bytes(content)
    elif damage == "cut":
        shard.write_bytes(content[:-8])
    else:
        shard.unlink()
    assert not has_posteriors(tmp_path, key="k")
    again = Encode()
    cache(again, pictures, tmp_path)
    assert again.num_images == 4
    assert has_posteriors(tmp_path, key="k")
    for name, values in dataset(tmp_path)[everything()].items():
        assert torch.equal(values, before[name])


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", '{"key": "k", "complete": true}', '{"format": 9}', "\xff", "one digit", "a name"]
)
def test_an_unreadable_index_is_no_cache(pictures, tmp_path, content):
    cache(Encode(), pictures, tmp_path)
    whole = (tmp_path / "index.json").read_text()
    if content == "one digit":
        content = whole.replace('"num_images": 10', '"num_images": 11')
    elif content == "a name":  # as version 0.1 would have believed
        index = json.loads(whole)
        content = json.dumps(
            {name: index[name] for name in ("key", "shard_size", "num_images", "complete")}
            | {"shards": {f"../{name}": digest for name, digest in index["shards"].items()}}
        )
    (tmp_path / "index.json").write_bytes(content.encode("latin-1"))
    assert not has_posteriors(tmp_path, key="k")
    cache(Encode(), pictures, tmp_path)
    assert has_posteriors(tmp_path, key="k")


def test_an_index_of_version_0_1_is_read_as_it_is(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    for name in ("format", "written_by", "digest"):
        del index[name]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert has_posteriors(tmp_path, key="k")
    again = Encode()
    cache(again, pictures, tmp_path)
    assert again.num_images == 0


def test_nothing_half_written_is_left(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert json.loads((tmp_path / "index.json").read_text())["complete"] is True


@pytest.mark.parametrize("num_replicas", [2, 3])
def test_replicas_write_the_cache_together(pictures, tmp_path, num_replicas):
    cache(Encode(), pictures, tmp_path / "alone")
    barrier, encodes = threading.Barrier(num_replicas), [Encode() for _ in range(num_replicas)]

    def replica(rank: int) -> None:
        place = {"rank": rank, "num_replicas": num_replicas, "wait": barrier.wait}
        cache(encodes[rank], pictures, tmp_path / "together", shard_size=2, **place)

    with ThreadPoolExecutor(num_replicas) as pool:
        list(pool.map(replica, range(num_replicas)))
    assert has_posteriors(tmp_path / "together", key="k")
    assert sum(encode.num_images for encode in encodes) == 10
    assert all(encode.num_images >= 2 for encode in encodes)
    for name, values in dataset(tmp_path / "together")[everything()].items():
        assert torch.equal(values, dataset(tmp_path / "alone")[everything()][name])


def test_progress_counts_pictures(pictures, tmp_path):
    told: list[tuple[int, int]] = []
    cache_posteriors(
        Encode(), pictures, tmp_path, key="k", batch_size=4, shard_size=8, progress=lambda *done: told.append(done)
    )
    assert told == [(4, 10), (8, 10), (10, 10)]


# --- what training sees -----------------------------------------------------------------------------------------------


def test_flips_are_the_posteriors_of_mirror_images(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path, flips=True)
    plain = dataset(tmp_path)[everything()]["mean"]
    mirrored = plain.flip(-1)  # this encoder's mean is the picture itself
    augmented = dataset(tmp_path, augment=True)
    share = []
    for number in range(40):
        mean = augmented[everything(number)]["mean"]
        is_plain = (mean == plain).flatten(1).all(1)
        assert torch.allclose(torch.where(is_plain[:, None, None, None], plain, mirrored), mean)
        share.append(is_plain.float().mean().item())
    assert np.mean(share) == pytest.approx(0.5, abs=0.1)


def test_views_follow_from_seed_and_batch_number(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path, flips=True)

    def view(seed: int, number: int) -> Tensor:
        return dataset(tmp_path, seed=seed, augment=True)[everything(number)]["mean"]

    assert torch.equal(view(1, 5), view(1, 5))
    assert not torch.equal(view(1, 5), view(1, 6))
    assert not torch.equal(view(1, 5), view(2, 5))


def test_without_augmentation_pictures_are_never_mirrored(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path, flips=True)
    cache(Encode(), pictures, tmp_path / "plain")
    for number in range(5):
        plain = dataset(tmp_path / "plain")[everything(number)]["mean"]
        assert torch.equal(dataset(tmp_path)[everything(number)]["mean"], plain)


def test_batches_go_on_where_an_interrupted_run_was(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path, flips=True)

    def batches(start: int, count: int) -> list[Tensor]:
        data = PosteriorDataModule(
            dataset(tmp_path, augment=True), dataset(tmp_path), batch_size=4, seed=3, num_val_images=10
        )
        data.start_batch = start
        return [batch["mean"] for batch, _ in zip(data.train_dataloader(), range(count), strict=False)]

    whole = batches(0, 8)
    assert all(torch.equal(one, other) for one, other in zip(whole[3:], batches(3, 5), strict=True))


def test_validation_is_a_fixed_even_sample(pictures, tmp_path):
    cache(Encode(), pictures, tmp_path)
    data = PosteriorDataModule(dataset(tmp_path), dataset(tmp_path), batch_size=3, seed=0, num_val_images=4)
    seen = [torch.cat([batch["prompt_ids"][:, 0] // 2 for batch in data.val_dataloader()]).tolist() for _ in range(2)]
    assert seen == [[0, 3, 6, 9]] * 2
    data = PosteriorDataModule(dataset(tmp_path), dataset(tmp_path), batch_size=3, seed=0, num_val_images=100)
    assert sum(len(batch["mean"]) for batch in data.val_dataloader()) == 10
