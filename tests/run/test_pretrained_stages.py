"""Starting from other people's weights: what is kept bit for bit, and what is folded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel

from tests.support.small_networks import FLUX, SD, SDXL, latents_for_the_unet, save_autoencoder, save_clip
from vae_ldm.data.posterior_cache import PosteriorDataset
from vae_ldm.errors import WeightsError
from vae_ldm.models.latent_scaling import latent_statistics
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run


def run_from(make_recipe: Any, tmp_path: Path, train: str, layout: dict[str, Any], **overrides: Any) -> Any:
    """The autoencoder before, the finished run, and its autoencoder."""
    before = save_autoencoder(tmp_path / "vae", **layout)
    stage: dict[str, Any] = {"from_pretrained": str(tmp_path / "vae"), "train": train}
    if train != "nothing":
        stage["trainer"] = {"max_steps": 2, "batch_size": 4}
    train_run(make_recipe(autoencoder=stage, diffusion__trainer__max_steps=1, **overrides))
    run = RunFolder(tmp_path / "nano")
    return before, run, AutoencoderKL.from_pretrained(run.autoencoder)


def images_of(run: RunFolder) -> Tensor:
    return torch.from_numpy(np.load(run.pictures / "train.npy")).permute(0, 3, 1, 2) / 127.5 - 1


def changed(before: AutoencoderKL, after: AutoencoderKL) -> set[str]:
    """Parts of the autoencoder of which any weight differs in any bit."""
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    return {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}


def test_nothing_trained_keeps_weights_and_factor_bit_for_bit(make_recipe, tmp_path):
    before, run, after = run_from(make_recipe, tmp_path, "nothing", SD)
    assert changed(before, after) == set()
    assert after.config.scaling_factor == 0.18215
    pipeline = StableDiffusionPipeline.from_pretrained(run.pipeline)
    assert changed(before, pipeline.vae) == set()
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert not run.checkpoints("autoencoder").exists()


def test_decoder_alone_trained_keeps_every_old_latent(make_recipe, tmp_path):
    before, _, after = run_from(make_recipe, tmp_path, "decoder", SD)
    assert changed(before, after) == {"decoder", "post_quant_conv"}
    assert after.config.scaling_factor == 0.18215


def test_all_trained_folds_to_unit_variance(make_recipe, tmp_path):
    before, run, after = run_from(make_recipe, tmp_path, "all", SD)
    assert changed(before, after) == {"encoder", "quant_conv", "post_quant_conv", "decoder"}
    assert after.config.scaling_factor == 1.0
    with torch.no_grad():
        statistics = latent_statistics([after.encode(images_of(run)).latent_dist])
    torch.testing.assert_close(statistics.mean, torch.zeros(4).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(statistics.std, torch.ones(4).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", [SD, FLUX, SDXL], ids=["sd", "flux", "sdxl"])
@pytest.mark.parametrize("train", ["nothing", "decoder"])
def test_the_unet_learns_the_latents_that_the_pipeline_decodes(make_recipe, tmp_path, train, layout):
    before, run, after = run_from(make_recipe, tmp_path, train, layout, data__horizontal_flip=False)
    cached = PosteriorDataset(run.latents / "train", torch.zeros(24, 1), seed=0, augment=False)
    images = images_of(run)
    expected = latents_for_the_unet(before, images, layout)
    torch.testing.assert_close(cached.mean[:, 0], expected, atol=1e-4, rtol=1e-4)

    # StableDiffusionPipeline divides by the factor and knows neither shift nor statistics of channels.
    with torch.no_grad():
        decoded = after.decode(cached.mean[:, 0] / after.config.scaling_factor).sample
        own = after.decode(after.encode(images).latent_dist.mean).sample
    torch.testing.assert_close(decoded, own, atol=1e-4, rtol=1e-4)
    if train == "nothing":
        with torch.no_grad():
            original = before.decode(before.encode(images).latent_dist.mean).sample
        torch.testing.assert_close(own, original, atol=1e-5, rtol=1e-4)
    if layout is not SD:
        assert (after.config.scaling_factor, after.config.shift_factor, after.config.latents_mean) == (1.0, None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__channels": 1}, r"takes pictures of 3 channels, the data has 1; set data\.channels: 3"),
        ({"data__image_size": 18, "diffusion": None}, r"needs sides divisible by 4; data\.image_size is 18x18"),
    ],
)
def test_weights_that_do_not_fit_the_pictures_are_refused(make_recipe, tmp_path, settings, message):
    with pytest.raises(WeightsError, match=message):
        run_from(make_recipe, tmp_path, "nothing", SD, **settings)


def test_crops_that_do_not_fit_the_weights_are_refused(make_recipe, tmp_path):
    with pytest.raises(WeightsError, match=r"needs sides divisible by 4; autoencoder\.crop_size is 10x10"):
        run_from(make_recipe, tmp_path, "decoder", SD, autoencoder__crop_size=10)


def test_a_size_that_the_pipeline_could_not_draw_is_refused_before_training(make_recipe):
    with pytest.raises(ValueError, match=r"data\.image_size: 20x28 is not divisible by 8.*the nearest that is: 16x32"):
        make_recipe(data__image_size=[20, 28])
    make_recipe(data__image_size=[20, 28], diffusion=None)


def test_a_pretrained_text_encoder_stays_bit_identical_and_is_exported(make_recipe, tmp_path, trained_run):
    saved = save_clip(tmp_path / "clip")
    text_encoder = {"type": "pretrained", "from_pretrained": str(tmp_path / "clip")}
    train_run(
        make_recipe(
            autoencoder__trainer__max_steps=1, diffusion__trainer__max_steps=2, diffusion__text_encoder=text_encoder
        )
    )
    pipeline = StableDiffusionPipeline.from_pretrained(RunFolder(tmp_path / "nano").pipeline)
    assert isinstance(pipeline.text_encoder, CLIPTextModel)
    for name, value in saved.state_dict().items():
        assert torch.equal(value, pipeline.text_encoder.state_dict()[name]), name
    assert pipeline.tokenizer("a tin").input_ids == [0, 2, 5, 1]
    assert pipeline.unet.config.cross_attention_dim == 32
