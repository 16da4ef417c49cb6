"""Every recipe of the repository runs from end to end, on a few pictures and for a few steps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.run.start_points import SD, save_autoencoder, save_stable_diffusion
from tests.support.small_networks import save_clip, save_flux2
from vae_ldm.models.lora import LORA_FILE
from vae_ldm.recipe import Recipe, parts, read_recipe
from vae_ldm.run.stages import train_run

RECIPES = sorted(Path(__file__).parents[1].glob("recipes/**/*.yaml"))
SHORT = ("max_steps=2", "batch_size=2")
STARTER = {"scaling_factor": 1.0, "latent_channels": 16}
"""f8 with 16 channels, as the starter has."""


def test_these_are_all_recipes():
    assert [path.name for path in RECIPES] == [
        "claims-32.yaml",
        "claims-64.yaml",
        "damage-cans-64.yaml",
        "finetune-autoencoder-decoder.yaml",
        "finetune-lora.yaml",
        "from-hub.yaml",
        "own-photos-256-from-hub.yaml",
        "product-photos-256.yaml",
        "product-photos-64.yaml",
        "starter-f8c16.yaml",
        "thermal-solar.yaml",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_first_comment_is_the_command_with_time_and_result(path):
    first, *others = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    assert first.startswith(f"vae-ldm train recipes/{path.name}")
    assert "min" in " ".join(others)
    assert "dB" in " ".join(others)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_probe")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_runs_to_the_end(path, tmp_path):
    recipe = read_recipe(path)
    settings = (*_few_pictures(tmp_path, recipe), *_short(recipe), *_start_points(tmp_path, recipe))
    train_run(read_recipe(path, (f"output_dir={tmp_path}", *settings)))
    made = ["autoencoder/config.json", "report.html", "metrics.json", "samples/reconstructions.png"]
    if recipe.diffusion is not None:
        is_lora = recipe.diffusion.train == "lora"
        made += ["samples/samples.png", f"lora/{LORA_FILE}" if is_lora else "pipeline/model_index.json"]
    for file in made:
        assert (tmp_path / recipe.name / file).is_file(), file


def _short(recipe: Recipe) -> list[str]:
    settings = ["evaluation.num_samples=4", "evaluation.num_inference_steps=2"]
    if recipe.autoencoder.train != "nothing":
        settings += [f"autoencoder.trainer.{setting}" for setting in SHORT]
    if recipe.diffusion is not None:
        settings += [f"diffusion.trainer.{setting}" for setting in SHORT]
    return settings


def _start_points(folder: Path, recipe: Recipe) -> list[str]:
    """Tiny weights of the same layout in place of those that a recipe takes from the Hub."""
    settings = []
    if recipe.autoencoder.from_pretrained is not None:
        settings += [f"autoencoder.from_pretrained={folder / 'sd'}", "data.image_size=32"]
        settings += ["autoencoder.subfolder=null"] * (recipe.autoencoder.subfolder is not None)
        if recipe.autoencoder.crop_size is not None:
            settings.append("autoencoder.crop_size=16")
        if recipe.diffusion is not None and recipe.diffusion.from_pretrained is not None:
            save_stable_diffusion(folder / "sd")
            settings.append(f"diffusion.from_pretrained={folder / 'sd'}")
        elif "FLUX.2" in recipe.autoencoder.from_pretrained:
            save_flux2(folder / "sd" / "vae")
        else:
            save_autoencoder(folder / "sd", **(STARTER if recipe.autoencoder.from_pretrained == "starter" else SD))
    if recipe.diffusion is not None and isinstance(recipe.diffusion.text_encoder, parts.PretrainedTextEncoder):
        save_clip(folder / "clip")
        settings.append(f"diffusion.text_encoder.from_pretrained={folder / 'clip'}")
    return settings


def _few_pictures(folder: Path, recipe: Recipe) -> list[str]:
    """Settings by which each source of the recipe has a few small pictures."""
    photos = _photos(folder / "photos", recipe)
    sources = (
        {f"data.sources[{index}]": source for index, source in enumerate(recipe.data.sources)}
        if isinstance(recipe.data, parts.Mixture)
        else {"data": recipe.data}
    )
    settings = ["data.image_size=64"] if isinstance(recipe.data, parts.Mixture) else []
    for key, source in sources.items():
        if source.type == "rendered_claims":
            settings += [f"{key}.num_train=26", f"{key}.num_validation=13"]
        else:
            settings.append(f"{key}.path={photos}")
        if key != "data":  # pictures of 256 px and more would take most of the time
            settings.append(f"{key}.image_size=64")
    return settings


def _photos(folder: Path, recipe: Recipe) -> Path:
    rng = np.random.default_rng(0)
    grey = recipe.name == "thermal-solar"
    for split, count in (("train", 10), ("validation", 8)):
        for label in ("good", "broken"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48) if grey else (80, 70, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder
