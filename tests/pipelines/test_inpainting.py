"""Promise 2: plain diffusers inpaints on latents of 4 channels, and refuses others in its own words."""

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForInpainting, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from vae_ldm.assembly import build_autoencoder, build_diffusion

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
MASK = Image.fromarray(np.pad(np.full((8, 16), 255, np.uint8), ((0, 8), (0, 0))))


def inpaint(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": 16, "width": 16, "num_inference_steps": 3, "strength": 1.0, "output_type": "np"}
    generator = torch.Generator().manual_seed(0)
    return pipeline("a photo of a good tin", image=PHOTO, mask_image=MASK, generator=generator, **options).images[0]


def test_an_export_of_four_latent_channels_inpaints(trained_run):
    plain = StableDiffusionPipeline.from_pretrained(trained_run.pipeline)
    pipeline = AutoPipelineForInpainting.from_pipe(plain)
    assert type(pipeline) is StableDiffusionInpaintPipeline
    drawn = inpaint(pipeline)
    assert drawn.shape == (16, 16, 3)
    assert np.isfinite(drawn).all()
    assert np.array_equal(drawn, inpaint(AutoPipelineForInpainting.from_pretrained(trained_run.pipeline)))


def test_eight_latent_channels_are_refused_in_one_line(make_recipe, tmp_path):
    recipe = make_recipe(autoencoder__latent_channels=8)
    autoencoder = build_autoencoder(recipe, image_channels=3)
    build_diffusion(recipe, autoencoder, ["a photo of a good tin"]).pipeline(autoencoder).save_pretrained(
        tmp_path / "x"
    )
    # Some versions refuse as soon as the pipeline is made, others when it is called.
    with pytest.raises(ValueError, match=r"(?i)unet.*4 or 9 input channels, not 8"):
        inpaint(AutoPipelineForInpainting.from_pretrained(tmp_path / "x"))
