"""Every recipe of the repository runs from end to end, on a few pictures and for a few steps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_ldm.recipe import parts, read_recipe
from vae_ldm.run.stages import train_run

RECIPES = sorted(Path(__file__).parents[1].glob("recipes/**/*.yaml"))
SHORT = (
    "autoencoder.trainer.max_steps=2",
    "autoencoder.trainer.batch_size=2",
    "diffusion.trainer.max_steps=2",
    "diffusion.trainer.batch_size=2",
    "evaluation.num_samples=4",
    "evaluation.num_inference_steps=2",
)


def test_there_are_four_recipes():
    assert [path.name for path in RECIPES] == [
        "claims-32.yaml",
        "damage-cans-64.yaml",
        "product-photos-64.yaml",
        "thermal-solar.yaml",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_first_comment_is_the_command_with_time_and_result(path):
    first, *others = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    assert first.startswith(f"vae-ldm train recipes/{path.name}")
    assert "min" in " ".join(others)
    assert "dB" in " ".join(others)


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_runs_to_the_end(path, tmp_path):
    recipe = read_recipe(path)
    data = (
        ("data.num_train=26", "data.num_validation=13")
        if isinstance(recipe.data, parts.RenderedClaims)
        else (f"data.path={_photos(tmp_path / 'photos', recipe)}",)
    )
    train_run(read_recipe(path, (f"output_dir={tmp_path}", *data, *SHORT)))
    for left in ("pipeline/model_index.json", "report.html", "metrics.json", "samples/samples.png"):
        assert (tmp_path / recipe.name / left).is_file()


def _photos(folder: Path, recipe) -> Path:
    rng = np.random.default_rng(0)
    grey = recipe.name == "thermal-solar"
    for split, count in (("train", 10), ("validation", 8)):
        for label in ("good", "broken"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48) if grey else (80, 70, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder
