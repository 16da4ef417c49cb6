import builtins
import shlex
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn

from vae_ldm.errors import WeightsError
from vae_ldm.losses.perceptual import LpipsDistance, PerceptualDistance, load_lpips
from vae_ldm.models.vision_features import VisionFeatures


class TwoStages(VisionFeatures):
    """A real, tiny network of two stages with batch norm and ReLU."""

    def __init__(self):
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        second = nn.Sequential(nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.ReLU())
        super().__init__(nn.ModuleList([first, second]), image_mean=[0.5] * 3, image_std=[0.5] * 3)

    def stages(self, images):
        first = self.network[0](self.normalize(images))
        return [first, self.network[1](first)]

    def embed(self, images):
        return self.stages(images)[-1].mean(dim=(2, 3))


@pytest.fixture
def distance():
    return PerceptualDistance(TwoStages())


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 3, 16, 24, generator=generator) * 2 - 1


def test_the_distance_is_equation_1_with_equal_weights(distance, pair):
    by_stage = []
    for stages in zip(*(distance.features.stages(images) for images in pair), strict=True):
        x, y = (stage.numpy() for stage in stages)
        x, y = (s / np.maximum(np.sqrt((s**2).sum(1, keepdims=True)), 1e-3) for s in (x, y))
        by_stage.append(((x - y) ** 2).sum(1).mean(axis=(1, 2)))
    np.testing.assert_allclose(distance(*pair), np.mean(by_stage, axis=0), rtol=1e-4)


def test_a_picture_is_at_no_distance_from_itself_and_the_others_do_not_matter(distance, pair):
    torch.testing.assert_close(distance(pair[0], pair[0]), torch.zeros(3))
    torch.testing.assert_close(distance(*pair[:, 1:2]), distance(*pair)[1:2])


def test_the_gradient_reaches_the_decoder_and_nothing_else(distance, pair):
    autoencoder = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    images = pair[0].clone().requires_grad_()
    latents = torch.randn(3, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    distance(autoencoder.decode(latents).sample, images).mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in autoencoder.decoder.conv_in.parameters())
    assert images.grad is None
    assert all(weight.grad is None for weight in distance.features.network.parameters())


def test_the_gradient_is_finite_where_every_feature_is_dead(distance, pair):
    with torch.no_grad():
        for weight in distance.features.network[1].parameters():
            weight.fill_(-1.0)
    reconstruction = pair[0].clone().requires_grad_()
    distance(reconstruction, pair[1]).sum().backward()
    assert reconstruction.grad.isfinite().all()


def test_gradient_descent_on_the_distance_comes_closer(distance, pair):
    reconstruction = pair[0].clone().requires_grad_()
    before = distance(reconstruction, pair[1]).mean()
    (gradient,) = torch.autograd.grad(before, reconstruction)
    assert distance(reconstruction - 5 * gradient, pair[1]).mean() < before


def test_a_network_that_holds_the_distance_neither_trains_nor_saves_it(distance, pair):
    holder = nn.ModuleDict({"perceptual": distance, "layer": nn.Linear(1, 1)}).train()
    assert set(holder.state_dict()) == {"layer.weight", "layer.bias"}
    torch.testing.assert_close(distance(*pair), distance.eval()(*pair))


class PretendLpips(nn.Module):
    """The package's layout: the layers of torchvision's backbone, by their numbers, in slices."""

    def __init__(self, net, pnet_rand, verbose):
        super().__init__()
        assert pnet_rand, "the package would have torchvision open its pickle"
        assert not verbose
        self.net = nn.Module()
        self.net.slice1 = nn.Sequential(OrderedDict({"0": nn.Conv2d(3, 2, 1), "1": nn.ReLU()}))
        self.net.slice2 = nn.Sequential(OrderedDict({"2": nn.Conv2d(2, 1, 1)}))

    def forward(self, a, b):
        assert a.shape[1] == b.shape[1] == 3
        seen = [self.net.slice2(self.net.slice1(images)) for images in (a, b)]
        return (seen[0] - seen[1]).square().mean(dim=(1, 2, 3), keepdim=True)


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


@pytest.fixture
def backbone(monkeypatch, tmp_path):
    """Where torchvision would keep the weights of VGG16; of its own it has none yet."""
    weights = types.SimpleNamespace(IMAGENET1K_V1=types.SimpleNamespace(url="https://download.example/vgg16-1.pth"))
    models = types.SimpleNamespace(VGG16_Weights=weights)
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=PretendLpips))
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / "vgg16-1.pth"


def convert() -> None:
    """What the refusal says to do."""
    with pytest.raises(WeightsError, match=r"vgg16-1\.safetensors is missing, .* a pickle is not opened") as caught:
        load_lpips("vgg")
    assert "fetch" not in str(caught.value)
    command = shlex.split(str(caught.value).partition("once with: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True, timeout=60)


def test_lpips_reads_safetensors_that_the_refusal_says_how_to_write(backbone):
    with pytest.raises(WeightsError, match=r"fetch https://download\.example/vgg16-1\.pth into"):
        load_lpips("vgg")
    torchvisions = {
        "features.0.weight": torch.ones(2, 3, 1, 1),
        "features.0.bias": torch.zeros(2),
        "features.2.weight": torch.ones(1, 2, 1, 1),
        "features.2.bias": torch.zeros(1),
        "classifier.6.bias": torch.zeros(4),
    }
    torch.save(torchvisions, backbone)
    convert()
    distance = load_lpips("vgg")
    assert isinstance(distance, LpipsDistance)
    assert not list(distance.parameters())
    for channels in (1, 3, 4):
        reconstruction = torch.zeros(2, channels, 8, 8, requires_grad=True)
        values = distance(reconstruction, torch.ones(2, channels, 8, 8))
        assert values.tolist() == [36.0, 36.0]  # (2 channels of 3 ones)^2
        values.sum().backward()
    reconstruction = torch.ones(2, 3, 8, 8, requires_grad=True)
    distance(reconstruction, torch.zeros(2, 3, 8, 8)).sum().backward()
    assert reconstruction.grad.abs().sum() > 0

    file = backbone.with_suffix(".safetensors")
    del torchvisions["features.2.bias"]
    for wrong in (torchvisions, torchvisions | {"features.2.bias": torch.zeros(5)}):
        save_file(wrong, file)
        with pytest.raises(
            WeightsError, match=r"vgg16-1\.safetensors: holds no weights of torchvision's vgg"
        ) as caught:
            load_lpips("vgg")
        assert "\n" not in str(caught.value)


def test_a_pickle_in_torchvisions_cache_never_runs(backbone):
    torch.save(Trap(), backbone)
    with pytest.raises(subprocess.CalledProcessError):
        convert()
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "failure", [ImportError("No module named 'lpips'"), RuntimeError("operator torchvision::nms does not exist\nmore")]
)
def test_missing_lpips_or_a_broken_torchvision_is_one_clear_line(monkeypatch, failure):
    original = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "lpips":
            raise failure
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(WeightsError, match="pip install lpips") as caught:
        load_lpips("alex")
    assert "\n" not in str(caught.value)
