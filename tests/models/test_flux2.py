"""FLUX.2's autoencoder, of diffusers' own class, opened as an AutoencoderKL."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

import vae_ldm
from tests.support.original_names import original_names
from tests.support.small_networks import save_flux2
from tests.support.stored_autoencoders import WEIGHTS, change, refusal
from vae_ldm.models.autoencoder import load_autoencoder_kl


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_flux2(tmp_path / "vae")
    return tmp_path / "vae"


def configure(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def test_encoder_and_decoder_are_bit_for_bit_those_of_diffusers_class(tmp_path):
    saved = save_flux2(tmp_path / "vae")
    opened = load_autoencoder_kl(str(tmp_path / "vae"))
    assert type(opened) is AutoencoderKL
    assert not opened.training
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = saved.encode(images).latent_dist.mean
        assert torch.equal(opened.encode(images).latent_dist.mean, latents)
        assert torch.equal(opened.decode(latents).sample, saved.decode(latents).sample)


def test_statistics_of_the_four_places_of_a_patch_are_pooled(tmp_path):
    saved = save_flux2(tmp_path / "vae")
    config = load_autoencoder_kl(str(tmp_path / "vae")).config
    assert (config.scaling_factor, config.shift_factor) == (1.0, None)
    # Many latents with exactly the mean and variance that the BatchNorm has for each place of each channel.
    noise = torch.randn(4000, 128, 1, 1, dtype=torch.float64)
    noise = (noise - noise.mean(0)) / noise.std(0, correction=0)
    std = (saved.bn.running_var.double() + 1e-4).sqrt()
    patches = noise * std.view(1, -1, 1, 1) + saved.bn.running_mean.double().view(1, -1, 1, 1)
    latents = torch.nn.functional.pixel_shuffle(patches, 2)  # as Flux2Pipeline._unpatchify_latents
    torch.testing.assert_close(torch.tensor(config.latents_mean).double(), latents.mean((0, 2, 3)), atol=1e-6, rtol=0)
    spread = latents.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    torch.testing.assert_close(torch.tensor(config.latents_std).double(), spread, atol=1e-6, rtol=0)


def test_the_patches_are_laid_out_as_diffusers_pipeline_has_them():
    flux2 = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2")
    patches = torch.arange(2 * 128 * 3 * 2, dtype=torch.float32).view(2, 128, 3, 2)
    expected = flux2.Flux2Pipeline._unpatchify_latents(patches)
    assert torch.equal(torch.nn.functional.pixel_shuffle(patches, 2), expected)


def test_it_is_saved_without_a_setting_that_plain_diffusers_warns_of(folder, tmp_path, caplog):
    load_autoencoder_kl(str(folder)).save_pretrained(tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKL"
    assert not {"batch_norm_eps", "batch_norm_momentum", "patch_size", "decoder_block_out_channels"} & config.keys()
    assert not any(name.startswith("bn.") for name in load_file(tmp_path / "plain" / WEIGHTS))
    AutoencoderKL.from_pretrained(tmp_path / "plain")
    assert caplog.text == ""


def test_half_precision_is_opened_in_float32(tmp_path):
    save_flux2(tmp_path / "vae").half().save_pretrained(tmp_path / "half")
    opened = load_autoencoder_kl(str(tmp_path / "half"))
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}


@pytest.mark.parametrize("place", ["vae", "."])
def test_through_the_front_door_latents_have_the_statistics_of_flux2(tmp_path, place):
    saved = save_flux2(tmp_path / "pipeline" / place)
    autoencoder = vae_ldm.load_autoencoder(tmp_path / "pipeline", subfolder=None)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        raw = saved.encode(images * 2 - 1).latent_dist.mean
    config = autoencoder.autoencoder.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
    torch.testing.assert_close(autoencoder.encode(images), (raw - mean) / std)


@pytest.mark.parametrize("name", ["bn.running_mean", "bn.running_var", "decoder.conv_out.bias"])
def test_a_missing_weight_is_named(folder, name):
    change(folder, lambda weights: weights.pop(name))
    assert f"are missing ({name}); " in refusal(folder)


def test_weights_beside_the_batch_norm_are_refused(folder):
    change(folder, lambda weights: weights.pop("bn.num_batches_tracked", None))
    load_autoencoder_kl(str(folder))
    change(folder, lambda weights: weights.update({"decoder.extra.weight": torch.zeros(2)}))
    assert "holds weights that AutoencoderKL does not have (decoder.extra.weight); " in refusal(folder)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (
            "bn.running_mean",
            torch.zeros(32),
            "are mis-shaped (bn.running_mean is [32], but [128] is wanted)",
        ),
        ("bn.running_mean", torch.full((128,), torch.nan), "are NaN, infinite or negative (bn.running_mean)"),
        ("bn.running_var", torch.full((128,), -1.0), "are NaN, infinite or negative (bn.running_var)"),
    ],
)
def test_statistics_that_are_none_are_refused(folder, name, values, said):
    change(folder, lambda weights: weights.update({name: values}))
    assert said in refusal(folder)


def test_a_decoder_with_widths_of_its_own_is_refused_and_the_full_one_named(folder):
    configure(folder, decoder_block_out_channels=[8, 8, 16, 16])
    load_autoencoder_kl(str(folder))
    configure(folder, decoder_block_out_channels=[8, 8, 8, 8])
    said = refusal(folder)
    assert "its decoder has widths of its own" in said
    assert "black-forest-labs/FLUX.2-klein-4B" in said


@pytest.mark.parametrize(
    "settings", [{"patch_size": [2]}, {"patch_size": 2}, {"patch_size": [0, 2]}, {"batch_norm_eps": -1.0}]
)
def test_a_hostile_configuration_is_one_line(folder, settings):
    configure(folder, **settings)
    assert next(iter(settings)) in refusal(folder)


def in_one_file(folder: Path, **changes: Tensor | None) -> Path:
    """FLUX.2's ae.safetensors: latent-diffusion's names, the quant convs within encoder and decoder, the BatchNorm."""
    saved = save_flux2(folder / "vae", block_out_channels=(32, 32, 64, 64), norm_num_groups=32)
    weights = {name: value for name, value in original_names(saved).items() if not name.startswith("bn.")}
    sides = {"quant_conv": "encoder.", "post_quant_conv": "decoder."}
    weights = {sides.get(name.split(".")[0], "") + name: value for name, value in weights.items()}
    weights |= {f"bn.{name}": value.clone() for name, value in saved.bn.state_dict().items()}
    weights = {name: value for name, value in (weights | changes).items() if value is not None}
    save_file(weights, folder / "ae.safetensors")
    return folder / "ae.safetensors"


def test_the_single_file_gives_what_the_folder_gives(tmp_path, recwarn):
    file = in_one_file(tmp_path)
    opened, beside = vae_ldm.load_autoencoder(file), load_autoencoder_kl(str(tmp_path / "vae"))
    assert not recwarn  # no scaling factor is assumed
    weights = opened.autoencoder.state_dict()
    assert weights.keys() == beside.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in beside.state_dict().items())
    for key in ("latents_mean", "latents_std", "scaling_factor", "latent_channels", "shift_factor"):
        assert opened.autoencoder.config[key] == beside.config[key]


@pytest.mark.parametrize("name", ["bn.running_mean", "bn.running_var", "encoder.norm_out.bias"])
def test_a_weight_that_the_single_file_lacks_is_named(tmp_path, name):
    said = refusal(in_one_file(tmp_path, **{name: None}))
    assert f"are missing ({name.replace('norm_out', 'conv_norm_out')})" in said
