"""A run on FLUX.2's autoencoder: what is measured, what is folded, and that plain diffusers opens the result."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor

import vae_ldm
from tests.support.archived_photos import EASY, photo
from tests.support.small_networks import save_flux2
from vae_ldm.data.posterior_cache import PosteriorDataset
from vae_ldm.desk.archive.add import add
from vae_ldm.desk.archive.reading import verify
from vae_ldm.desk.compare.compare import compare
from vae_ldm.models.latent_scaling import latent_statistics
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run


def run_from_flux2(make_recipe: Any, tmp_path: Path, train: str = "nothing", **overrides: Any) -> tuple[Any, RunFolder]:
    """The autoencoder of diffusers' class, and the finished run on it."""
    before = save_flux2(tmp_path / "flux2" / "vae")
    stage: dict[str, Any] = {"from_pretrained": str(tmp_path / "flux2"), "train": train}
    if train != "nothing":
        stage["trainer"] = {"max_steps": 2, "batch_size": 4}
    train_run(
        make_recipe(autoencoder=stage, **{"data__image_size": 32, "diffusion__trainer__max_steps": 1, **overrides})
    )
    return before, RunFolder(tmp_path / "nano")


def images_of(run: RunFolder) -> Tensor:
    return torch.from_numpy(np.load(run.pictures / "train.npy")).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.mark.parametrize("train", ["nothing", "decoder", "all"])
def test_each_channel_has_zero_mean_and_unit_variance_on_the_photos(make_recipe, tmp_path, capsys, train):
    before, run = run_from_flux2(make_recipe, tmp_path, train, data__horizontal_flip=False)
    after = AutoencoderKL.from_pretrained(run.autoencoder)
    assert (after.config.scaling_factor, after.config.latents_mean, after.config.latents_std) == (1.0, None, None)
    images = images_of(run)
    with torch.no_grad():
        posterior = after.encode(images).latent_dist
        statistics = latent_statistics([posterior])
        torch.testing.assert_close(statistics.mean, torch.zeros(32).double(), atol=1e-3, rtol=0)
        torch.testing.assert_close(statistics.std, torch.ones(32).double(), atol=1e-3, rtol=0)
        cached = PosteriorDataset(run.latents / "train", torch.zeros(24, 1), seed=0, augment=False)
        torch.testing.assert_close(cached.mean[:, 0], posterior.mean, atol=1e-4, rtol=1e-4)
        if train == "nothing":  # what goes through it is what went through FLUX.2's own
            own = before.decode(before.encode(images).latent_dist.mean).sample
            torch.testing.assert_close(after.decode(posterior.mean).sample, own, atol=1e-5, rtol=1e-4)
    said = " ".join(capsys.readouterr().err.split())
    measured = "mean and deviation of each channel were measured on 24 training photos" in said
    assert measured == (train != "all")


def test_plain_diffusers_opens_the_export_and_draws_the_same_bits(make_recipe, tmp_path, caplog):
    _, run = run_from_flux2(make_recipe, tmp_path)
    plain = DiffusionPipeline.from_pretrained(run.pipeline)
    assert caplog.text == ""
    assert type(plain) is StableDiffusionPipeline
    assert (type(plain.vae), plain.unet.config.in_channels) == (AutoencoderKL, 32)
    drawn = []
    for pipeline in (plain, vae_ldm.pipeline(run.path)):
        pipeline.set_progress_bar_config(disable=True)
        result = pipeline(
            "a photo of a good tin", num_inference_steps=2, generator=torch.manual_seed(1), output_type="np"
        )
        drawn.append(result.images)
    assert drawn[0].shape == (1, 32, 32, 3)
    assert np.array_equal(*drawn)


def test_without_a_unet_the_autoencoder_keeps_its_weights_and_the_statistics_of_flux2(make_recipe, tmp_path):
    before, run = run_from_flux2(make_recipe, tmp_path, diffusion=None)
    after = AutoencoderKL.from_pretrained(run.autoencoder)
    kept = before.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in after.state_dict().items())
    assert len(after.config.latents_mean) == 32
    assert after.config.scaling_factor == 1.0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        photo(number, (40, 48)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_compare_and_archive_take_it_as_it_lies_in_a_pipeline(tmp_path, photos):
    save_flux2(tmp_path / "flux2" / "vae")
    (result,) = compare(photos, [str(tmp_path / "flux2")], out=tmp_path / "page.html", side=32)
    assert result.latent_shape == (32, 4, 4)
    added = add(tmp_path / "archive", photos, model=str(tmp_path / "flux2"), target_psnr=EASY, prefer="latents")
    assert added.num_added == 3
    verify(tmp_path / "archive")
