import copy

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from vae_ldm.models.autoencoder import new_autoencoder
from vae_ldm.models.half_precision import make_fit_for_half, scale_residuals
from vae_ldm.models.latent_scaling import decide_force_upcast, reconstruct


@pytest.fixture
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    size = {"downsample_factor": 4, "latent_channels": 4, "image_channels": 3, "image_size": (16, 16)}
    return new_autoencoder("tiny", **size).eval().requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_scale_of_the_residual_stream_means_nothing(autoencoder, images, part):
    before = reconstruct(autoencoder, images)
    inside: list[Tensor] = []
    network = getattr(autoencoder, part)
    hook = network.conv_norm_out.register_forward_pre_hook(lambda _, inputs: inside.append(inputs[0]))
    reconstruct(autoencoder, images)
    # Up, where the norms' epsilon is felt less than before.
    scale_residuals(network, 64.0)
    after = reconstruct(autoencoder, images)
    hook.remove()
    torch.testing.assert_close(inside[1], 64 * inside[0], rtol=1e-3, atol=1e-3 * inside[1].abs().max().item())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_what_overflows_is_made_to_survive_and_plain_diffusers_opens_it(autoencoder, images, tmp_path, part):
    scale_residuals(getattr(autoencoder, part), 2.0**20)  # an exact model whose activations are a million
    before = copy.deepcopy(autoencoder)
    exact = reconstruct(autoencoder, images)
    assert decide_force_upcast(autoencoder, images)
    halvings = make_fit_for_half(autoencoder, images, parts=("decoder", "encoder"))
    assert halvings is not None
    assert not decide_force_upcast(autoencoder, images)
    torch.testing.assert_close(reconstruct(autoencoder, images), exact, rtol=0, atol=1e-3)
    assert autoencoder.state_dict().keys() == before.state_dict().keys()
    autoencoder.save_pretrained(tmp_path)
    half = AutoencoderKL.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert reconstruct(half, images).isfinite().all()


def test_what_cannot_be_cured_is_left_as_it_was(autoencoder, images):
    with torch.no_grad():  # a constant that the last bias takes away again: float16 keeps 2 of 4000 there
        autoencoder.decoder.conv_norm_out.bias += 4000
        autoencoder.decoder.conv_out.bias -= 4000 * autoencoder.decoder.conv_out.weight.sum(dim=(1, 2, 3))
    before = copy.deepcopy(autoencoder.state_dict())
    assert make_fit_for_half(autoencoder, images, parts=("decoder", "encoder")) is None
    assert all(torch.equal(before[name], value) for name, value in autoencoder.state_dict().items())


def test_an_encoder_that_stays_valid_is_not_touched(autoencoder, images):
    scale_residuals(autoencoder.decoder, 2.0**20)
    before = copy.deepcopy(autoencoder.encoder.state_dict())
    assert make_fit_for_half(autoencoder, images, parts=("decoder",)) is not None
    assert all(torch.equal(before[name], value) for name, value in autoencoder.encoder.state_dict().items())
