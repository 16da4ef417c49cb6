import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from vae_ldm import loading
from vae_ldm.errors import VaeLdmError
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.pipelines.latent_diffusion import slerp

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (2, 14, 22, 3), np.uint8)
QUICK = {"num_inference_steps": 4, "output_type": "np"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pipeline(trained_run):
    pipeline = loading.pipeline(trained_run.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def distances(images, others):
    return np.abs(images - others).mean(axis=(1, 2, 3))


def test_called_as_a_pipeline_it_is_the_plain_one_bit_for_bit(pipeline, trained_run):
    plain = StableDiffusionPipeline.from_pretrained(trained_run.pipeline)
    plain.set_progress_bar_config(disable=True)
    drawn = [
        one("a photo of a good tin", num_inference_steps=3, generator=seeded(), output_type="np").images
        for one in (pipeline, plain)
    ]
    assert np.array_equal(*drawn)


def test_reconstruct_gives_images_of_their_own_size(pipeline):
    images = pipeline.reconstruct(PHOTOS).images
    assert [image.size for image in images] == [(22, 14)] * 2
    assert np.array_equal(np.asarray(images[1]), np.asarray(ImageAutoencoder(pipeline.vae).reconstruct(PHOTOS)[1]))


def test_variations_come_image_by_image_and_leave_with_strength(pipeline):
    reconstructions = pipeline.reconstruct(PHOTOS, output_type="np").images
    near, far = (pipeline.vary(PHOTOS, strength, 3, generator=seeded(), **QUICK).images for strength in (0.25, 1.0))
    assert near.shape == (6, 14, 22, 3)
    # Each is nearer to its own photo than to the other.
    own, other = np.repeat(reconstructions, 3, axis=0), np.repeat(reconstructions[::-1], 3, axis=0)
    assert (distances(near, own) < distances(near, other)).all()
    assert distances(near, own).mean() < distances(far, own).mean()
    assert len({image.tobytes() for image in near}) == 6


def test_no_strength_is_the_reconstruction(pipeline):
    varied = pipeline.vary(PHOTOS, 0, 2, output_type="np").images
    np.testing.assert_allclose(varied[::2], pipeline.reconstruct(PHOTOS, output_type="np").images, atol=1e-5)
    np.testing.assert_allclose(varied[1::2], varied[::2], atol=1e-5)


@pytest.mark.parametrize("strength", [0.01, 1 / 49])
def test_the_smallest_strength_is_a_step(pipeline, strength):
    steps = []

    def count(pipe, step, timestep, kwargs):
        steps.append(step)
        return kwargs

    pipeline.vary(PHOTOS[0], strength, 1, callback_on_step_end=count, **QUICK)
    assert steps == [0]


def test_variations_follow_from_generators_as_in_diffusers(pipeline):
    one, again = (pipeline.vary(PHOTOS, n=2, generator=seeded(5), **QUICK).images for _ in range(2))
    assert np.array_equal(one, again)
    each = [seeded(seed) for seed in (1, 2, 1, 2)]
    own = pipeline.vary(PHOTOS, n=2, generator=each, **QUICK).images
    alone = pipeline.vary(PHOTOS[1], n=1, generator=seeded(2), **QUICK).images
    np.testing.assert_allclose(own[3:], alone, atol=1e-4)


def test_prompts_and_guidance_are_heard(pipeline):
    settings = [
        {},
        {"guidance_scale": 7.0},
        {"prompt": "a photo of a good tin"},
        {"prompt": "a photo of a good tin", "guidance_scale": 7.0},
        {"prompt": ["a photo of a good tin", "a photo of a dented tin"]},
    ]
    drawn = [pipeline.vary(PHOTOS, 0.9, 1, generator=seeded(), **QUICK, **one).images for one in settings]
    assert np.array_equal(drawn[0], drawn[1])  # without a prompt there is nothing to be guided to
    assert len({images.tobytes() for images in drawn}) == 4
    np.testing.assert_allclose(drawn[4][0], drawn[2][0], atol=1e-5)


def test_latents_of_any_number_of_channels_and_alpha_are_varied(make_recipe, tmp_path):
    """diffusers' own image to image takes an RGBA picture for latents, and latents of 8 channels for a picture."""
    from vae_ldm.run.stages import train_run

    one_step = {"autoencoder__trainer__max_steps": 1, "diffusion__trainer__max_steps": 1}
    train_run(make_recipe(data__channels=4, autoencoder__latent_channels=8, **one_step))
    pipeline = loading.pipeline(tmp_path / "nano")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vary(PHOTOS, n=1, **QUICK).images.shape == (2, 14, 22, 4)


def test_a_morph_goes_from_one_reconstruction_to_the_other(pipeline):
    ends = pipeline.reconstruct(PHOTOS, output_type="np").images
    frames = pipeline.morph(PHOTOS[0], PHOTOS[1], steps=5, output_type="np").images
    assert frames.shape == (5, 14, 22, 3)
    np.testing.assert_allclose(frames[[0, -1]], ends, atol=1e-5)
    assert (np.diff(distances(frames, ends[:1])) > 0).all()
    assert (np.diff(distances(frames, ends[1:])) < 0).all()


def test_a_morph_through_the_model_keeps_its_ends(pipeline):
    quick = {"steps": 4, "generator": seeded(), **QUICK}
    plain, drawn = (pipeline.morph(*PHOTOS, strength=strength, **quick).images for strength in (0, 0.5))
    np.testing.assert_allclose(drawn[[0, -1]], plain[[0, -1]], atol=1e-5)
    assert (distances(drawn, plain)[1:-1] > 0.001).all()
    again = pipeline.morph(*PHOTOS, strength=0.5, steps=4, generator=seeded(), **QUICK).images
    assert np.array_equal(drawn, again)


def test_frames_of_a_walk_are_drawn_anew_from_one_noise(pipeline):
    latents = pipeline.autoencoder.encode(PHOTOS)
    settings = {"num_inference_steps": 4, "size": (14, 22), "output_type": "np"}
    drawn = pipeline.redraw(latents, 0.5, generator=seeded(5), **settings).images
    assert drawn.shape == (2, 14, 22, 3)
    alone = pipeline.vary(PHOTOS[1], 0.5, 1, generator=seeded(5), **QUICK).images
    np.testing.assert_allclose(drawn[1:], alone, atol=1e-4)
    twice = pipeline.redraw(latents[[0, 0]], 0.5, generator=seeded(5), **settings).images
    np.testing.assert_allclose(twice[0], twice[1], atol=1e-5)


def test_the_great_circle():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)
    half = 0.5**0.5
    torch.testing.assert_close(slerp(a, b, 0.5), torch.tensor([[3 * half, half]]))
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    assert slerp(a, -a, 0.25).isfinite().all()


def test_saved_it_is_a_plain_pipeline_of_the_same_weights(pipeline, trained_run, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index == json.loads((trained_run.pipeline / "model_index.json").read_text())
    for file in trained_run.pipeline.rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "saved" / file.relative_to(trained_run.pipeline)).read_bytes(), file
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "saved")) is StableDiffusionPipeline
    with pytest.raises(VaeLdmError, match=r"use vae_ldm\.push"):
        pipeline.save_pretrained(tmp_path / "pushed", push_to_hub=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.vary(PHOTOS, 1.5), r"strength is 1.5; it is a share in \[0, 1\]"),
        (lambda p: p.vary(PHOTOS, n=0), "n is 0"),
        (lambda p: p.vary(PHOTOS, prompt=["a"] * 3), "3 prompts for 2 images"),
        (lambda p: p.vary(PHOTOS, n=2, generator=[seeded()]), "1 generator for 4 images"),
        (lambda p: p.vary("photo.jpg"), "photo.jpg: no such photo"),
        (lambda p: p.morph(PHOTOS, PHOTOS[0]), "between two images, not 2 and 1"),
        (lambda p: p.morph(PHOTOS[0], PHOTOS[1][:8]), "of one size, not 14x22 and 8x22"),
        (lambda p: p.morph(PHOTOS[0], PHOTOS[1], steps=1), "steps is 1"),
    ],
)
def test_wrong_calls_are_one_line(pipeline, call, message):
    with pytest.raises(VaeLdmError, match=message) as caught:
        call(pipeline)
    assert "\n" not in str(caught.value)


def test_a_negative_prompt_is_one_for_all(trained_run):
    pipeline = loading.pipeline(trained_run.path)
    pipeline.set_progress_bar_config(disable=True)
    photos = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)

    def varied(**options: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        options |= {"generator": generator, "output_type": "np", "num_inference_steps": 4}
        return pipeline.vary(photos, 0.8, 2, prompt="a photo of a good tin", **options).images

    one, several = varied(negative_prompt="a parcel"), varied(negative_prompt=["a parcel", "a parcel"])
    assert np.array_equal(one, several)
    assert not np.array_equal(one, varied())


@pytest.mark.parametrize("strength", [1e-9, 1e-300])
def test_a_strength_that_would_take_more_steps_than_there_are_is_refused(trained_run, strength):
    pipeline = loading.pipeline(trained_run.path)
    photo = np.zeros((16, 16, 3), np.uint8)
    for call in (
        lambda: pipeline.vary(photo, strength, 1),
        lambda: pipeline.morph(photo, photo, 3, strength=strength),
        lambda: pipeline.redraw(torch.zeros(1, 4, 4, 4), strength),
    ):
        with pytest.raises(VaeLdmError, match=r"of at most 1,000 steps; give 0, or 0\.001 or more$"):
            call()


def test_the_least_strength_that_the_message_names_is_taken(trained_run):
    pipeline = loading.pipeline(trained_run.path)
    latents = torch.zeros(1, 4, 4, 4)
    with pytest.raises(VaeLdmError, match=r"^1,001 steps are too many: this model takes 1,000 at most$"):
        pipeline.redraw(latents, 0.5, num_inference_steps=1001)
    assert pipeline.redraw(latents, 0.001, num_inference_steps=2).images


def test_a_prompt_that_is_not_utf_8_is_refused_in_one_line(trained_run):
    pipeline = loading.pipeline(trained_run.path)
    with pytest.raises(VaeLdmError, match=r"^the prompt caf\S+ is not UTF-8; "):
        pipeline.vary(np.zeros((16, 16, 3), np.uint8), prompt="caf\udce9")


@pytest.mark.parametrize("guidance_scale", [float("inf"), float("nan"), -1.0, 1e30])
def test_a_guidance_that_is_no_number_is_refused_and_draws_nothing_black(trained_run, guidance_scale):
    pipeline = loading.pipeline(trained_run.path)
    with pytest.raises(VaeLdmError, match=r"guidance_scale is .*; give a number from 0 to 1000"):
        pipeline("a tin", num_inference_steps=1, guidance_scale=guidance_scale)
    with pytest.raises(VaeLdmError, match=r"guidance_scale is .*; give a number from 0 to 1000"):
        pipeline.vary(np.zeros((16, 16, 3), np.uint8), prompt="a tin", guidance_scale=guidance_scale)
