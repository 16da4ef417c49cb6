import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support.stored_autoencoders import WEIGHTS, change, refusal
from vae_ldm.errors import WeightsError
from vae_ldm.models.autoencoder import load_autoencoder_kl
from vae_ldm.models.pretrained import load_pretrained


def tiny(**settings: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        **settings,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.mark.parametrize(
    "layout",
    [
        {"scaling_factor": 0.18215},
        {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159, "scaling_factor": 0.3611},
        {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4, "force_upcast": True},
    ],
)
def test_every_layout_is_opened_as_it_was_saved(tmp_path, layout):
    saved = tiny(**layout)
    saved.save_pretrained(tmp_path / "vae")
    opened = load_autoencoder_kl(str(tmp_path / "vae"))
    assert not opened.training
    assert {key: opened.config[key] for key in layout} == layout
    assert opened.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in saved.state_dict().items())


def test_half_precision_weights_are_opened_in_float32(tmp_path):
    tiny().half().save_pretrained(tmp_path / "vae")
    assert {value.dtype for value in load_autoencoder_kl(str(tmp_path / "vae")).parameters()} == {torch.float32}


def test_a_subfolder_of_a_pipeline(tmp_path):
    tiny().save_pretrained(tmp_path / "pipeline" / "vae")
    assert isinstance(load_autoencoder_kl(str(tmp_path / "pipeline"), subfolder="vae"), AutoencoderKL)


def test_a_missing_weight_is_named_and_nothing_else_is_said(folder, capfd):
    change(folder, lambda weights: weights.pop("decoder.conv_out.bias"))
    assert "weights of AutoencoderKL are missing (decoder.conv_out.bias); " in refusal(folder)
    assert capfd.readouterr().err == ""


def test_several_missing_weights_are_counted(folder):
    change(folder, lambda weights: [weights.pop(f"decoder.conv_out.{name}") for name in ("bias", "weight")])
    assert "weights of AutoencoderKL are missing (decoder.conv_out.bias and 1 more); " in refusal(folder)


def test_a_mis_shaped_weight_is_named(folder):
    change(folder, lambda weights: weights.update({"decoder.conv_out.bias": torch.zeros(5)}))
    message = refusal(folder)
    assert "decoder.conv_out.bias" in message
    assert "shape" in message


def test_a_mis_shaped_weight_of_a_text_encoder_is_named(tmp_path):
    config = CLIPTextConfig(
        vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    CLIPTextModel(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("final_layer_norm.bias"))
    save_file(weights | {name: torch.zeros(5)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"final_layer_norm\.bias") as caught:
        load_pretrained(CLIPTextModel, str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"])
def test_a_pickle_is_refused_and_never_opened(folder, name):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")
    assert f"{name} is a pickle, which can run code when opened" in refusal(folder)
    assert not Path("pwned").exists()


def test_a_pickle_beside_safetensors_is_not_looked_at(folder):
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"not even a pickle")
    load_autoencoder_kl(str(folder))


def test_a_cut_off_file_is_one_line(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    assert f"{WEIGHTS}: is damaged, or not a safetensors file" in refusal(folder)


def test_a_sound_file_below_a_path_that_is_not_utf8_is_not_called_damaged(folder, tmp_path):
    odd = folder.rename(tmp_path / "caf\udce9")
    assert refusal(odd) == f"{odd / WEIGHTS}: safetensors only opens paths that are UTF-8; rename the folder"


def test_no_weights_no_config_and_no_folder(folder, tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")
    (folder / WEIGHTS).unlink()
    assert "has no .safetensors file" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


def test_another_class_of_model_is_one_line(tmp_path, folder):
    shutil.move(folder / "config.json", tmp_path / "kept.json")
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "sample_size": 8}')
    refusal(folder)


def test_a_name_of_the_hub_is_no_path(monkeypatch):
    # Offline, a name that no cache holds: one line as well, and no look at a folder of that name.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder_kl("nobody/nothing-of-this-name")
    assert "nobody/nothing-of-this-name: cannot be opened as AutoencoderKL" in str(caught.value)
    assert "\n" not in str(caught.value)
