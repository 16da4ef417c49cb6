import pytest
import torch

from vae_ldm.models.autoencoder import AUTOENCODER_SIZES, downsample_factor, new_autoencoder, set_trained_part


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
@pytest.mark.parametrize(("image_channels", "latent_channels"), [(1, 4), (3, 1), (4, 16)])
def test_shapes(factor, image_channels, latent_channels, nano_networks):
    settings = {"latent_channels": latent_channels, "image_channels": image_channels, "image_size": (32, 48)}
    autoencoder = new_autoencoder("tiny", downsample_factor=factor, **settings)
    images = torch.zeros(2, image_channels, 32, 48)
    with torch.no_grad():
        latents = autoencoder.encode(images).latent_dist.mode()
        assert latents.shape == (2, latent_channels, 32 // factor, 48 // factor)
        assert autoencoder.decode(latents).sample.shape == images.shape
    assert downsample_factor(autoencoder) == factor
    assert autoencoder.config.scaling_factor == 1.0
    assert autoencoder.config.sample_size == 48


@pytest.mark.parametrize("size", AUTOENCODER_SIZES)
@pytest.mark.parametrize("factor", [4, 16])
def test_every_size_can_be_built(size, factor):
    settings = {"latent_channels": 4, "image_channels": 3, "image_size": (64, 64)}
    with torch.device("meta"):
        autoencoder = new_autoencoder(size, downsample_factor=factor, **settings)
    assert downsample_factor(autoencoder) == factor


def test_sd_is_the_layout_of_stable_diffusion():
    with torch.device("meta"):
        autoencoder = new_autoencoder(
            "sd", downsample_factor=8, latent_channels=4, image_channels=3, image_size=(512, 512)
        )
    assert autoencoder.config.block_out_channels == (128, 256, 512, 512)
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == 83_653_863  # that of SD 1.5


@pytest.mark.parametrize(
    ("part", "trained"),
    [
        ("all", {"encoder", "decoder", "quant_conv", "post_quant_conv"}),
        ("decoder", {"decoder", "post_quant_conv"}),
        ("nothing", set()),
    ],
)
def test_trained_part(part, trained, nano_networks):
    settings = {"latent_channels": 4, "image_channels": 3, "image_size": (16, 16)}
    autoencoder = new_autoencoder("tiny", downsample_factor=4, **settings)
    set_trained_part(autoencoder, part)
    assert {name.split(".")[0] for name, value in autoencoder.named_parameters() if value.requires_grad} == trained
