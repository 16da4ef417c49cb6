import builtins
import sys
import types

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
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
    def __init__(self, net, verbose):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        assert net == "vgg"
        assert not verbose

    def forward(self, a, b):
        assert a.shape[1] == b.shape[1] == 3
        return self.weight * (a - b).square().mean(dim=(1, 2, 3), keepdim=True)


def pretend_lpips(monkeypatch, cache):
    """The package, and a torchvision whose VGG16 is not in the cache yet."""
    weights = types.SimpleNamespace(IMAGENET1K_V1=types.SimpleNamespace(url="https://download.example/vgg16-1.pth"))
    models = types.SimpleNamespace(VGG16_Weights=weights)
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=PretendLpips))
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lpips_gives_one_value_a_picture_for_grey_rgb_and_rgba(monkeypatch, tmp_path, channels):
    pretend_lpips(monkeypatch, tmp_path)
    with pytest.raises(WeightsError, match=r"vgg16-1\.pth is missing, and a recipe may download from the Hub only"):
        load_lpips("vgg")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-1.pth").touch()
    distance = load_lpips("vgg")
    assert isinstance(distance, LpipsDistance)
    assert not list(distance.parameters())
    reconstruction = torch.zeros(2, channels, 8, 8, requires_grad=True)
    values = distance(reconstruction, torch.ones(2, channels, 8, 8))
    assert values.tolist() == [1.0, 1.0]
    values.sum().backward()
    assert reconstruction.grad.abs().sum() > 0


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
