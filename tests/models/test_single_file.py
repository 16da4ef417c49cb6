"""Autoencoders in one file with the original key names: a tiny one is converted to them here."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

import vae_ldm
from tests.run.start_points import save_stable_diffusion
from tests.support.original_names import original_names
from vae_ldm.errors import WeightsError
from vae_ldm.models.autoencoder import load_autoencoder_kl
from vae_ldm.models.single_file import measured_scaling
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run

SD: dict[str, Any] = {"scaling_factor": 0.18215}
FLUX: dict[str, Any] = {
    "use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16,
    "scaling_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip


def tiny(**layout: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    levels = len(layout.pop("block_out_channels", (32, 64, 64)))
    settings: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64)[:levels], "layers_per_block": 1}
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **settings | layout,
    ).eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(original_names(tiny(**SD)), tmp_path / "vae.safetensors")
    return tmp_path / "vae.safetensors"


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
@pytest.mark.parametrize(
    "layout",
    [
        SD,
        FLUX,
        SD | {"in_channels": 1, "out_channels": 1, "latent_channels": 3, "layers_per_block": 2},
        SD | {"block_out_channels": (32, 64, 64, 64)},
        SD | {"block_out_channels": (32, 64)},
    ],
)
def test_every_weight_comes_back(tmp_path, layout, prefix):
    saved = tiny(**layout)
    beside = {} if not prefix else {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    weights = {f"{prefix}{name}": value for name, value in original_names(saved).items()}
    save_file(weights | beside, tmp_path / "model.safetensors")
    opened = load_autoencoder_kl(str(tmp_path / "model.safetensors"))
    assert not opened.training
    assert opened.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in saved.state_dict().items())
    for key in ("scaling_factor", "shift_factor", "latent_channels", "layers_per_block", "norm_num_groups"):
        assert opened.config[key] == saved.config[key]
    images = torch.rand(1, saved.config.in_channels, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened(images).sample, saved(images).sample)


def test_half_precision_is_opened_in_float32(tmp_path):
    save_file({k: v.half() for k, v in original_names(tiny()).items()}, tmp_path / "vae.safetensors")
    assert {value.dtype for value in load_autoencoder_kl(str(tmp_path / "vae.safetensors")).parameters()} == {
        torch.float32
    }


def test_a_missing_weight_is_named(file):
    weights = load_file(file)
    del weights["decoder.norm_out.bias"]
    save_file(weights, file)
    with pytest.raises(WeightsError, match=r"weights of AutoencoderKL are missing \(decoder\.conv_norm_out\.bias\)"):
        load_autoencoder_kl(str(file))


def test_what_is_something_else_is_one_line(file, tmp_path):
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    (tmp_path / "vae.ckpt").write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")
    for name, message in (
        ("other.safetensors", "is no autoencoder with the key names of latent-diffusion"),
        ("vae.safetensors", "is damaged, or not a safetensors file"),
        ("vae.ckpt", "vae.ckpt is a pickle, which can run code when opened"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_autoencoder_kl(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_through_the_front_door(file):
    photo = torch.zeros(1, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"Stable Diffusion's 0\.18215 is assumed \(SDXL has 0\.13025\)"):
        vae_ldm.load_autoencoder(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert vae_ldm.load_autoencoder(file).encode(photo).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("layout", "std", "name", "factor", "shift"),
    [
        (SD, 5.5, "Stable Diffusion", 0.18215, None),
        (SD, 7.7, "SDXL", 0.13025, None),
        (SD, 5.0, "Stable Diffusion", 0.18215, None),
        (FLUX, 2.6, "FLUX", 0.3611, 0.1159),
        (FLUX, 0.65, "Stable Diffusion 3", 1.5305, 0.0609),
        (SD, 0.5, "none that is known", 2.0, None),
        (FLUX, 50.0, "none that is known", 0.02, 0.3),
    ],
)
def test_photos_tell_apart_what_shapes_cannot(layout, std, name, factor, shift):
    found = measured_scaling(tiny(**layout), 0.3, std)
    assert (found.name, found.shift_factor) == (name, shift)
    assert found.scaling_factor == pytest.approx(factor)


@pytest.mark.parametrize("train", ["nothing", "decoder"])
def test_from_a_recipe_to_a_pipeline_with_a_measured_factor_that_is_said(file, make_recipe, tmp_path, capsys, train):
    stage = {"from_pretrained": str(file), "train": train}
    if train == "decoder":
        stage["trainer"] = {"max_steps": 1, "batch_size": 2}  # type: ignore[assignment]
    train_run(make_recipe(autoencoder=stage, diffusion__trainer__max_steps=1))
    run = RunFolder(tmp_path / "nano")
    kept, saved = AutoencoderKL.from_pretrained(run.pipeline / "vae"), tiny(**SD)
    encoder = {name: value for name, value in saved.state_dict().items() if name.startswith(("encoder", "quant"))}
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in encoder.items())
    images = torch.from_numpy(np.load(run.pictures / "train.npy")).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = kept.encode(images).latent_dist.sample() * kept.config.scaling_factor
    assert 1 / 1.5 < latents.std() < 1.5
    said = " ".join(capsys.readouterr().err.split())
    assert "the file does not say its scaling factor; on these photos its latents have a standard deviation of" in said


def test_the_factor_of_the_pipeline_whose_unet_is_trained_on(make_recipe, tmp_path, capsys):
    source = save_stable_diffusion(tmp_path / "sd")
    file = tmp_path / "vae.safetensors"
    save_file(original_names(tiny(scaling_factor=1.0, block_out_channels=(32, 64, 64, 64))), file)
    config = source / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.7}))
    second = {"from_pretrained": str(source), "train": "unet", "trainer": {"max_steps": 1, "batch_size": 2}}
    first = {"from_pretrained": str(file), "train": "nothing"}
    train_run(make_recipe(data__image_size=32, autoencoder=first, diffusion=second))
    assert AutoencoderKL.from_pretrained(tmp_path / "nano" / "pipeline" / "vae").config.scaling_factor == 0.7
    assert f"0.7 is that of {source}" in " ".join(capsys.readouterr().err.split())


def test_the_weights_file_of_a_diffusers_folder_is_sent_to_its_folder(tmp_path):
    tiny().save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(WeightsError, match="weights file of a diffusers folder; give the folder that it lies in"):
        load_autoencoder_kl(str(file))
