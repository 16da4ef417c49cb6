"""Design promise 1: an export needs nothing of ours."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from vae_ldm.opening import open_pipeline
from vae_ldm.pipelines.sampling import sample_images
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run

PROMPTS = ["a photo of a good tin", ""]

PLAIN_DIFFUSERS = """
import sys

class Blocker:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("vae_ldm", "pytorch_lightning", "tests"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
try:
    import vae_ldm
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("vae_ldm is there")

import numpy, torch
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
assert type(pipeline).__name__ == "StableDiffusionPipeline"
height, width = int(sys.argv[3]), int(sys.argv[4])
images = pipeline(
    ["a photo of a good tin", ""],
    height=height, width=width, num_inference_steps=3, guidance_scale=2.0, output_type="np",
    generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
).images
numpy.save(sys.argv[2], images)
"""


@pytest.fixture(scope="session")
def pipeline(trained_once: RunFolder) -> StableDiffusionPipeline:
    return open_pipeline(trained_once.path)


def draw_elsewhere(folder: Path, size: tuple[int, int], out: Path) -> np.ndarray:
    """What a machine without us draws: an isolated Python that cannot import this package."""
    command = [sys.executable, "-I", "-c", PLAIN_DIFFUSERS, folder, out, *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(out)


def draw_here(pipeline: StableDiffusionPipeline) -> np.ndarray:
    return np.stack(sample_images(pipeline, PROMPTS, seeds=[5, 6], num_inference_steps=3, guidance_scale=2.0))


def test_plain_diffusers_draws_the_same_pictures_bit_for_bit(trained_run, pipeline, tmp_path):
    elsewhere = draw_elsewhere(trained_run.pipeline, (16, 16), tmp_path / "images.npy")
    here = draw_here(pipeline)
    assert here.dtype == np.uint8
    assert here.std() > 1
    assert np.array_equal(np.round(elsewhere * 255).astype(np.uint8), here)


def test_a_shifted_run_is_drawn_by_plain_diffusers_bit_for_bit(trained_run, make_recipe, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "nano")
    run = RunFolder(tmp_path / "nano")
    run.restart(["diffusion"])
    train_run(make_recipe(diffusion__flow_shift=3.0))
    shifted = open_pipeline(run.path)
    assert shifted.scheduler.config.flow_shift == 3
    here = draw_here(shifted)
    elsewhere = draw_elsewhere(run.pipeline, (16, 16), tmp_path / "images.npy")
    assert np.array_equal(np.round(elsewhere * 255).astype(np.uint8), here)
    shifted.scheduler.register_to_config(flow_shift=1.0)
    assert not np.array_equal(draw_here(shifted), here), "else the scheduler takes no notice of it"


def test_a_picture_follows_from_its_own_seed(pipeline):
    (alone,) = sample_images(pipeline, PROMPTS[1:], seeds=[6], num_inference_steps=3, guidance_scale=2.0)
    together = draw_here(pipeline)
    assert np.abs(alone.astype(int) - together[1]).max() <= 1
    assert not np.array_equal(together[0], together[1])


def test_every_file_is_safetensors_or_text(trained_run):
    suffixes = {path.suffix for path in trained_run.pipeline.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


def test_classes_are_known_to_diffusers_and_to_transformers_4_and_5(trained_run):
    index = json.loads((trained_run.pipeline / "model_index.json").read_text())
    classes = {name: tuple(entry) for name, entry in index.items() if isinstance(entry, list) and entry[0]}
    assert classes == {
        "vae": ("diffusers", "AutoencoderKL"),
        "unet": ("diffusers", "UNet2DConditionModel"),
        "scheduler": ("diffusers", "DPMSolverMultistepScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
    }
    tokenizer = json.loads((trained_run.pipeline / "tokenizer" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_text_encoder_weights_have_the_names_of_the_hub(trained_run):
    # transformers 5 writes them without the prefix; 4 would leave the text encoder random with only a warning.
    with safe_open(trained_run.pipeline / "text_encoder" / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert "text_model.embeddings.token_embedding.weight" in names
    assert all(name.startswith("text_model.") for name in names)
    assert not any(name.startswith("text_model.text_model.") for name in names)


def test_what_is_opened_is_what_was_trained(trained_run, pipeline):
    checkpoint = torch.load(trained_run.checkpoints("diffusion") / "step=6.ckpt", weights_only=True)["state_dict"]
    for name, module in (("unet", pipeline.unet), ("text_encoder", pipeline.text_encoder)):
        state = module.state_dict()
        trained = {key.removeprefix(f"{name}."): value for key, value in checkpoint.items() if key.startswith(name)}
        assert trained.keys() == state.keys()
        assert all(torch.equal(trained[key], state[key]) for key in state)


def test_no_safety_checker_is_asked_for_and_nothing_is_in_training_mode(pipeline):
    assert pipeline.safety_checker is None
    assert pipeline.config.requires_safety_checker is False
    assert not any(module.training for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder))


def test_latents_have_unit_scale(trained_run, pipeline):
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline.vae.config.shift_factor is None


def test_image_to_image_opens_it(trained_run):
    pipeline = AutoPipelineForImage2Image.from_pretrained(trained_run.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    images = [
        pipeline(
            "a photo of a good tin",
            image=picture,
            strength=strength,
            num_inference_steps=10,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]
        for strength in (0.2, 0.9)
    ]
    assert [image.shape for image in images] == [(16, 16, 3)] * 2
    target = np.asarray(picture) / 255
    near, far = (np.abs(image - target).mean() for image in images)
    assert near < far


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_scheduler_of_the_export_follows_from_training(make_recipe, tmp_path, trained_run, prediction_type):
    shutil.copytree(trained_run.path, tmp_path / "nano")
    RunFolder(tmp_path / "nano").restart(["diffusion"])
    steps = {"diffusion__trainer__max_steps": 1, "diffusion__prediction_type": prediction_type}
    train_run(make_recipe(**steps, diffusion__zero_terminal_snr=prediction_type == "v_prediction"))
    scheduler = open_pipeline(tmp_path / "nano").scheduler
    assert scheduler.config.prediction_type == prediction_type
    assert scheduler.config.rescale_betas_zero_snr == (prediction_type == "v_prediction")
    assert np.isfinite(draw_here(open_pipeline(tmp_path / "nano"))).all()


def test_grey_pictures_that_are_not_square(make_recipe, tmp_path):
    train_run(
        make_recipe(
            data__image_size=[24, 40],
            data__channels=1,
            autoencoder__trainer__max_steps=2,
            diffusion__trainer__max_steps=2,
        )
    )
    pipeline = open_pipeline(tmp_path / "nano")
    assert list(pipeline.unet.config.sample_size) == [6, 10]
    here = draw_here(pipeline)
    assert here.shape == (2, 24, 40, 1)
    elsewhere = draw_elsewhere(tmp_path / "nano" / "pipeline", (24, 40), tmp_path / "images.npy")
    assert np.array_equal(np.round(elsewhere * 255).astype(np.uint8), here)
