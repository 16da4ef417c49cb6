from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vae_ldm.evaluation.linear_floor import LinearCode
from vae_ldm.evaluation.reconstruction import reconstruction_metrics
from vae_ldm.models.pixels import as_images

PACK = Path(__file__).parents[2] / "../shared/data/product_clothing"


def test_a_code_as_large_as_the_patch_loses_nothing() -> None:
    images = torch.rand(8, 1, 24, 40, generator=torch.Generator().manual_seed(0))
    code = LinearCode.fit(images, downsample_factor=2, latent_channels=4)
    torch.testing.assert_close(code.reconstruct(images), images)


def test_it_is_the_best_linear_code() -> None:
    """The loss is the sum of the covariance's smaller eigenvalues, and random codes of the same size lose more."""
    torch.manual_seed(0)
    images = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 36, 36), 5, stride=1)
    code = LinearCode.fit(images, downsample_factor=4, latent_channels=6)
    loss = (code.reconstruct(images) - images).square().sum() / (64 * 8 * 8)

    patches = torch.nn.functional.pixel_unshuffle(images, 4).movedim(1, -1).flatten(0, -2)
    eigenvalues = torch.linalg.eigvalsh(patches.T.cov(correction=0))
    torch.testing.assert_close(loss, eigenvalues[:-6].sum(), rtol=1e-3, atol=0)

    basis, _ = torch.linalg.qr(torch.randn(48, 6))
    rival = LinearCode(code.mean, basis.T, 4)
    assert (rival.reconstruct(images) - images).square().sum() / (64 * 8 * 8) > 1.5 * loss


def test_a_choice_of_patches_is_enough() -> None:
    torch.manual_seed(0)
    images = torch.nn.functional.avg_pool2d(torch.randn(64, 1, 36, 36), 5, stride=1)
    whole, part = (
        LinearCode.fit(images, downsample_factor=4, latent_channels=4, max_patches=n).reconstruct(images)
        for n in (10**6, 1000)
    )
    assert (part - images).square().mean() < 1.05 * (whole - images).square().mean()


@pytest.mark.pack
@pytest.mark.skipif(not PACK.is_dir(), reason="the photo pack product_clothing is not beside the checkout")
def test_the_known_floors_of_product_photos() -> None:
    """Mean PSNR over the validation pictures at 64 px, as the project's figures say; every fourth training photo."""
    train, validation = photos("train", every=4), photos("validation", every=1)
    for factor, channels, known in ((2, 4, 28.5), (4, 4, 23.9), (4, 8, 28.1), (4, 16, 34.9), (8, 4, 20.8)):
        code = LinearCode.fit(train, downsample_factor=factor, latent_channels=channels)
        psnr = reconstruction_metrics(validation, code.reconstruct(validation)).psnr.mean().item()
        assert psnr == pytest.approx(known, abs=0.2), f"f{factor}c{channels}"


def photos(split: str, every: int) -> torch.Tensor:
    files = sorted((PACK / split).glob("*/*"))[::every]
    pictures = []
    for file in files:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            pictures.append(np.asarray(ImageOps.fit(upright, (64, 64), Image.Resampling.LANCZOS)))
    return as_images(np.stack(pictures))
