"""Folders of strangers: whatever their configurations say is one line, and nothing in them is executed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vae_ldm
from tests.run.start_points import save_stable_diffusion
from vae_ldm.errors import HubError, WeightsError
from vae_ldm.hub import download
from vae_ldm.models.autoencoder import load_autoencoder_kl
from vae_ldm.models.pretrained import load_scheduler
from vae_ldm.models.stored_config import read_config
from vae_ldm.models.text_encoder import load_text_encoder
from vae_ldm.models.vision_features import load_transformers_backbone


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("made") / "sd")


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "sd"))


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        vae_ldm.pipeline(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message


def test_as_it_was_saved_it_opens(folder):
    assert vae_ldm.pipeline(folder).unet.config.sample_size == 64


CODE = "import pathlib; pathlib.Path({ran!r}).touch()\nfrom diffusers import UNet2DConditionModel as {name}\n"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"unet": ["evil", "UNet2DConditionModel"]}, "unet is evil.UNet2DConditionModel"),
        ({"scheduler": ["evil", "PNDMScheduler"]}, "scheduler is evil.PNDMScheduler"),
        ({"scheduler": ["diffusers", "UNet2DModel"]}, "scheduler is UNet2DModel"),
        ({"tokenizer": ["evil", "CLIPTokenizer"]}, "tokenizer is evil.CLIPTokenizer"),
        ({"tokenizer": ["transformers", "pipeline"]}, "tokenizer is pipeline"),
        ({"safety_checker": ["evil", "Checker"]}, "safety_checker is evil.Checker"),
        ({"extra": ["evil", "UNet2DConditionModel"]}, "extra is evil.UNet2DConditionModel"),
        ({"_class_name": ["evil", "Pipeline"]}, "its model_index.json names no class of a pipeline"),
        ({"unet": []}, "unet is no class"),
        ({"unet": {"evil": 1}}, "unet is no class"),
        ({"unet": None}, "unet is missing"),
    ],
)
def test_classes_are_of_a_closed_list_and_no_file_of_the_folder_is_run(folder, tmp_path, entry, said):
    ran = tmp_path / "ran"
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        (place / "evil.py").write_text(CODE.format(ran=str(ran), name="UNet2DConditionModel"))
    change(folder / "model_index.json", **entry)
    message = refusal(folder)
    assert said in message
    assert not ran.exists()
    if "evil." in message:  # nobody is sent to open it elsewhere, where it might run
        assert "never run here" in message
        assert "open it with" not in message


DEEP = "[" * 100_000
HOSTILE: list[tuple[str, Any]] = [
    ("model_index.json", []),
    ("model_index.json", DEEP),
    ("model_index.json", "{"),
    ("unet/config.json", {"block_out_channels": None}),
    ("unet/config.json", {"block_out_channels": [2**40]}),
    ("unet/config.json", {"block_out_channels": [8192, 8192, 8192, 8192]}),  # gigabytes, within every bound
    ("unet/config.json", {"layers_per_block": 10**9}),
    ("unet/config.json", {"down_block_types": ["EvilBlock2D"]}),
    ("unet/config.json", {"norm_num_groups": 3}),
    ("unet/config.json", []),
    ("unet/config.json", DEEP),
    ("vae/config.json", {"norm_num_groups": 0}),
    ("vae/config.json", {"scaling_factor": float("nan")}),
    ("vae/config.json", {"scaling_factor": "0.18"}),
    ("vae/config.json", {"latent_channels": -4}),
    ("text_encoder/config.json", {"hidden_size": -1}),
    ("text_encoder/config.json", {"num_hidden_layers": 10**8}),
    ("text_encoder/config.json", {"vocab_size": 10**12}),
    ("text_encoder/config.json", {"num_attention_heads": 5}),
    ("text_encoder/config.json", None),
    ("tokenizer/tokenizer_config.json", []),
    ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}),
    ("tokenizer/tokenizer.json", []),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 300_000_000}),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}),
    ("scheduler/scheduler_config.json", {"beta_end": 7.0}),
    ("scheduler/scheduler_config.json", {"beta_schedule": "evil"}),
    ("scheduler/scheduler_config.json", []),
    ("unet/diffusion_pytorch_model.safetensors.index.json", []),
]


@pytest.mark.parametrize(("name", "content"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_configuration_is_one_line(folder, name, content):
    file = folder / name
    if isinstance(content, dict):
        change(file, **content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        if "index.json" in name and "unet" in name:
            (file.with_name("diffusion_pytorch_model.safetensors")).unlink()
    said = str(refusal(folder))
    if content == []:
        assert "holds no JSON object" in said or "index.json" in name or name == "tokenizer/tokenizer.json"
    if content == DEEP:
        assert "is nested too deeply for a configuration" in said
    for part, load in (
        ("vae", lambda: load_autoencoder_kl(str(folder / "vae"))),
        ("scheduler", lambda: load_scheduler(folder)),
        ("text_encoder", lambda: load_text_encoder(str(folder))),
        ("tokenizer", lambda: load_text_encoder(str(folder))),
    ):
        if name.startswith(part):
            with pytest.raises(WeightsError) as caught:
                load()
            assert "\n" not in str(caught.value)


def test_no_memory_is_taken_for_weights_that_the_files_cannot_hold(folder, monkeypatch):
    change(folder / "vae" / "config.json", block_out_channels=[4096, 4096, 4096, 4096])
    made: list[int] = []
    empty = torch.nn.init.kaiming_uniform_

    def counted(tensor: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        made.append(0 if tensor.is_meta else tensor.numel())
        return empty(tensor, *rest, **options)

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", counted)
    with pytest.raises(WeightsError, match=r"describes [0-9,]+ weights, but its files hold [0-9,]+ bytes"):
        load_autoencoder_kl(str(folder / "vae"))
    assert max(made) == 0


@pytest.mark.parametrize("component", ["vae", "unet", "text_encoder"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda tensor: tensor.flatten(),
            r"safetensors: weights of \w+ are mis-shaped \({name} is \[\d+\], but its config",
        ),
        (lambda tensor: tensor.to(torch.int64), r"safetensors: weights of \w+ are mis-shaped \({name} holds int64\)"),
        (lambda tensor: tensor.fill_(torch.nan), r"weights of \w+ are NaN or infinite \({name}\)"),
        (lambda tensor: tensor.fill_(torch.inf), r"weights of \w+ are NaN or infinite \({name}\)"),
        (lambda tensor: None, r"weights of \w+ are missing \({name}\)"),
    ],
)
def test_weights_that_are_not_those_of_their_config_are_named_with_their_file(folder, component, damage, said):
    (file,) = (folder / component).glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in sorted(weights) if weights[name].ndim == 2)
    damaged = damage(weights.pop(name))
    save_file(weights if damaged is None else weights | {name: damaged}, file, metadata={"format": "pt"})
    named = r"(text_model\.)?" + re.escape(name.removeprefix("text_model."))
    assert re.search(said.format(name=named), message := refusal(folder)), message
    assert component in message


def test_a_file_that_never_ends_is_not_read_to_its_end(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(b" " * 5_000_000)
    with pytest.raises(WeightsError, match=r"config\.json: is larger than 4,194,304 bytes"):
        read_config(file)


@pytest.mark.parametrize("index", [b"[]", DEEP.encode(), b"{"])
def test_an_index_on_the_hub_is_one_line(hub, index):
    hub.add("acme/tins", {"model_index.json": index, "unet/config.json": b"{}"})
    with pytest.raises((HubError, WeightsError)) as caught:
        download("acme/tins")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "notes", ["[]", DEEP, "{", '{"unet.base_model_name_or_path": [1]}', '{"unet.base_model_name_or_path": ""}']
)
def test_notes_of_a_hostile_lora_are_one_line(tmp_path, notes):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"unet.x.lora_A.weight": torch.zeros(1)}, file, metadata={"lora_adapter_metadata": notes})
    with pytest.raises(WeightsError) as caught:
        vae_ldm.pipeline(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"model_type": "vit", "hidden_size": -1}, {"image_mean": [0.5], "image_std": [0.5]}),
        ({"auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}, "model_type": "evil"}, {}),
        ([], {}),
        ({"model_type": "vit"}, []),
    ],
)
def test_a_hostile_backbone_is_one_line_and_its_code_is_not_run(tmp_path, monkeypatch, config, processor):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever is asked says yes
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\nC = M = object\n")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        load_transformers_backbone(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not ran.exists()
