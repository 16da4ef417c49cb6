import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.small_networks import FLUX, SD, SDXL, latents_for_the_unet, save_autoencoder
from vae_ldm.errors import VaeLdmError
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (2, 32, 48, 3), np.uint8)


@pytest.fixture
def autoencoder(tmp_path):
    return ImageAutoencoder(save_autoencoder(tmp_path / "vae", **SD))


@pytest.mark.parametrize("layout", [SD, FLUX, SDXL], ids=["sd", "flux", "sdxl"])
def test_latents_are_those_that_the_layouts_own_pipelines_hand_to_their_unet(tmp_path, layout):
    network = save_autoencoder(tmp_path / "vae", **layout)
    autoencoder = ImageAutoencoder(network)
    images = torch.from_numpy(PHOTO).permute(0, 3, 1, 2) / 127.5 - 1
    latents = autoencoder.encode(PHOTO)
    torch.testing.assert_close(latents, latents_for_the_unet(network, images, layout))
    with torch.no_grad():
        expected = network.decode(network.encode(images).latent_dist.mean).sample.clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(autoencoder.decode(latents, output_type="pt"), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 48), (30, 45), (5, 7), (1, 1)])
def test_any_size_comes_back_as_it_went(autoencoder, size):
    photo = RNG.integers(0, 256, (*size, 3), np.uint8)
    latents = autoencoder.encode(photo)
    assert latents.shape == (1, 4, -(-size[0] // 4), -(-size[1] // 4))
    assert autoencoder.decode(latents, size=size)[0].size == size[::-1]
    assert autoencoder.reconstruct(photo, output_type="np").shape == (1, *size, 3)
    assert autoencoder.decode(latents, output_type="pt").shape[2:] == (latents.shape[2] * 4, latents.shape[3] * 4)


def test_what_is_added_at_the_border_continues_the_picture(autoencoder):
    photo = np.pad(PHOTO[0][:30, :45], ((0, 2), (0, 3), (0, 0)), mode="edge")
    torch.testing.assert_close(autoencoder.encode(PHOTO[0][:30, :45]), autoencoder.encode(photo))


def test_a_grey_network_takes_colour_and_gives_grey(tmp_path):
    autoencoder = ImageAutoencoder(save_autoencoder(tmp_path / "vae", in_channels=1, out_channels=1))
    assert autoencoder.encode(PHOTO).shape == (2, 4, 8, 12)
    images = autoencoder.reconstruct([Image.fromarray(PHOTO[0]).convert("L"), Image.fromarray(PHOTO[1])])
    assert [image.mode for image in images] == ["L", "L"]


def test_a_generator_samples_the_posterior_and_without_one_it_is_the_mean(autoencoder):
    mean = autoencoder.encode(PHOTO)
    first, again = (autoencoder.encode(PHOTO, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, mean)
    each = autoencoder.encode(PHOTO, generator=[torch.Generator().manual_seed(seed) for seed in (1, 1)])
    noise = (each - mean) / (first - mean)
    torch.testing.assert_close(noise[0], torch.ones_like(noise[0]), atol=1e-2, rtol=1e-2)


def test_a_large_photo_in_tiles_has_no_seams(tmp_path):
    network = save_autoencoder(tmp_path / "vae", **SD)
    rows, columns = np.mgrid[0:200, 0:264]
    photo = np.stack([rows % 200, columns % 256, (rows + columns) % 240], axis=-1).astype(np.uint8)
    whole, in_tiles = (
        ImageAutoencoder(network, tile_size=tile_size).reconstruct(photo, output_type="pt") for tile_size in (None, 64)
    )
    assert in_tiles.shape == whole.shape
    assert not torch.equal(in_tiles, whole)
    # Tiles see other means than the whole, so they differ; what must not be there is a place where that jumps.
    difference = in_tiles - whole
    steps = difference.diff(dim=-1).abs().amax(dim=(0, 1, 2))
    assert steps.max() < 4 * steps.median() + 0.02


def test_tiling_starts_above_the_tile(autoencoder, monkeypatch):
    monkeypatch.setattr("vae_ldm.pipelines.image_autoencoder.tiled", lambda *_, **__: pytest.fail("tiled"))
    ImageAutoencoder(autoencoder.autoencoder, tile_size=48).reconstruct(PHOTO)
    with pytest.raises(pytest.fail.Exception):
        ImageAutoencoder(autoencoder.autoencoder, tile_size=44).reconstruct(PHOTO)


def test_half_precision_gives_pictures_too(autoencoder):
    half = ImageAutoencoder(autoencoder.autoencoder.to(torch.bfloat16))
    assert half.encode(PHOTO).dtype == torch.bfloat16
    assert half.reconstruct(PHOTO)[1].size == (48, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.decode(torch.zeros(1, 3, 8, 8)), r"latents have the shape \[B, 4, h, w\], not \[1, 3, 8, 8\]$"),
        (lambda a: a.decode(torch.zeros(4, 8, 8)), r"not \[4, 8, 8\]$"),
        (lambda a: a.decode(torch.zeros(1, 4, 8, 8), size=(33, 32)), "size 33x32 is larger"),
        (lambda a: a.decode(torch.zeros(1, 4, 8, 8), output_type="jpg"), "output_type jpg is unknown: pil, np, pt"),
        (lambda a: ImageAutoencoder(a.autoencoder, tile_size=16), "tile_size 16 is less than 32"),
    ],
)
def test_wrong_calls_are_one_line(autoencoder, call, message):
    with pytest.raises(VaeLdmError, match=message):
        call(autoencoder)
