"""Batches are right, and the same ones come again after a stop."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from vae_ldm.data.datamodule import ImageDataModule, PictureBatches
from vae_ldm.data.pictures import Pictures
from vae_ldm.data.random_views import jitter_colors, random_crops
from vae_ldm.data.sampling import Batch


def _pictures(count: int = 10, channels: int = 3, size: tuple[int, int] = (12, 16)) -> Pictures:
    images = np.random.default_rng(0).integers(0, 256, (count, *size, channels), dtype=np.uint8)
    names = [str(n) for n in range(count)]
    return Pictures(images, np.zeros(count, np.int64), names, names, ["x"])


def _module(**options: object) -> ImageDataModule:
    return ImageDataModule(_pictures(), _pictures(7), **{"batch_size": 4, "seed": 3, **options})


def _take(module: ImageDataModule, count: int) -> list[dict[str, Tensor]]:
    return list(itertools.islice(module.train_dataloader(), count))


def _assert_same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["images"], other["images"])


AUGMENTED = {"horizontal_flip": True, "color_jitter": 0.3, "crop_size": (8, 8)}


def test_a_plain_batch_holds_the_pictures_themselves() -> None:
    module = _module()
    for batch in _take(module, 5):
        assert batch["images"].dtype == torch.uint8
        assert batch["images"].shape == (4, 3, 12, 16)
        assert batch["images"].is_contiguous()
        assert batch["index"].dtype == torch.int64
        expected = module.train_batches.pictures.images[batch["index"].numpy()].transpose(0, 3, 1, 2)
        assert np.array_equal(batch["images"].numpy(), expected)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # more than a single core has
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_meets_the_batches_it_would_have_met(num_workers: int) -> None:
    whole = _take(_module(**AUGMENTED), 9)
    resumed = _module(**AUGMENTED, num_workers=num_workers)
    resumed.start_batch = 4
    _assert_same(_take(resumed, 5), whole[4:])


def test_the_same_pictures_look_different_next_time() -> None:
    pictures = PictureBatches(_pictures(), seed=0, **AUGMENTED)
    indices = np.arange(4)
    first, second = pictures[Batch(0, indices)]["images"], pictures[Batch(1, indices)]["images"]
    assert not torch.equal(first, second)
    assert torch.equal(first, pictures[Batch(0, indices)]["images"])


def test_flips_mirror_about_half() -> None:
    pictures = PictureBatches(_pictures(1), horizontal_flip=True)
    upright = torch.from_numpy(pictures.pictures.images).permute(0, 3, 1, 2)[0]
    images = pictures[Batch(0, np.zeros(400, np.int64))]["images"]
    flipped = torch.tensor([not torch.equal(image, upright) for image in images])
    assert all(torch.equal(image, upright.flip(-1)) for image in images[flipped])
    assert 150 < flipped.sum() < 250


def test_crops_are_pieces_and_reach_every_place() -> None:
    images = np.arange(6 * 7, dtype=np.uint8).reshape(1, 6, 7, 1)
    crops = random_crops(images, np.zeros(500, np.int64), (4, 5), np.random.default_rng(0))
    corners = set()
    for crop in crops:
        top, left = divmod(int(crop[0, 0, 0]), 7)
        corners.add((top, left))
        assert np.array_equal(crop, images[0, top : top + 4, left : left + 5])
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_jitter_against_the_three_steps_by_hand() -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(80, 160, (2, 3, 5, 4), dtype=np.uint8))
    jittered = jitter_colors(images, 0.3, np.random.default_rng(7))
    brightness, contrast, saturation = np.random.default_rng(7).uniform(0.7, 1.3, (3, 2))
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for n in range(2):
        colors = images[n].float() * brightness[n]
        mean = (colors * luma).sum(0).mean()
        colors = mean + contrast[n] * (colors - mean)
        grey = (colors * luma).sum(0)
        colors = grey + saturation[n] * (colors - grey)
        assert (jittered[n].float() - colors.clamp(0, 255)).abs().max() <= 0.51


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jitter_leaves_alpha_alone_and_works_on_grey(channels: int) -> None:
    images = torch.from_numpy(_pictures(channels=channels).images).permute(0, 3, 1, 2)
    jittered = jitter_colors(images, 0.5, np.random.default_rng(0))
    assert jittered.shape == images.shape
    assert jittered.dtype == torch.uint8
    assert not torch.equal(jittered[:, :3], images[:, :3])
    assert torch.equal(jittered[:, 3:], images[:, 3:])
    assert torch.equal(jitter_colors(images, 0.0, np.random.default_rng(0)), images)


@pytest.mark.parametrize(
    ("num_val_images", "expected"), [(3, [0, 3, 6]), (100, list(range(7))), (None, list(range(7)))]
)
def test_validation_is_a_fixed_even_sample(num_val_images: int | None, expected: list[int]) -> None:
    module = _module(num_val_images=num_val_images, **AUGMENTED)
    batches = list(module.val_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == expected
    assert batches[0]["images"].shape[1:] == (3, 12, 16)
    _assert_same(batches, list(module.val_dataloader()))


def test_fewer_pictures_than_a_batch() -> None:
    module = ImageDataModule(_pictures(3), _pictures(1), batch_size=8)
    (batch,) = _take(module, 1)
    assert torch.bincount(batch["index"]).tolist() in ([2, 3, 3], [3, 2, 3], [3, 3, 2])
    assert len(list(module.val_dataloader())) == 1


def test_a_memory_map_is_sent_to_a_worker_by_name(tmp_path: Path) -> None:
    pictures = _pictures(200)
    np.save(tmp_path / "train.npy", pictures.images)
    mapped = Pictures(
        np.load(tmp_path / "train.npy", mmap_mode="r"), pictures.labels, pictures.captions, pictures.ids, ["x"]
    )
    sent = pickle.dumps(mapped)
    assert len(sent) < pictures.images.nbytes / 5
    assert np.array_equal(pickle.loads(sent).images, pictures.images)
    part = Pictures(mapped.images[50:], mapped.labels, mapped.captions, mapped.ids, ["x"])
    assert np.array_equal(pickle.loads(pickle.dumps(part)).images, pictures.images[50:])
    assert np.array_equal(pickle.loads(pickle.dumps(pictures)).images, pictures.images)


class _Listener(pl.LightningModule):
    """Trains nothing and writes down which pictures it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.trained: list[int] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.trained += batch["index"].tolist()
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_completed()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated += batch["index"].tolist()

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and loggers
def test_lightning_takes_the_batches_as_they_come(tmp_path: Path) -> None:
    module, listener = _module(), _Listener()
    trainer = pl.Trainer(
        accelerator="cpu",
        limit_train_batches=6,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(listener, module)
    assert listener.trained == torch.cat([batch["index"] for batch in _take(_module(), 6)]).tolist()
    assert listener.validated == list(range(7))
