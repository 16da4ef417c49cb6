import random

import pytest

from vae_ldm.recipe import dump_recipe, read_recipe, recipe_differences, write_recipe

EVERY_PART = """\
name: full
data: {type: hub_dataset, path: ORG/NAME, image_size: [24, 40], channels: 1}
autoencoder:
  from_pretrained: ORG/OTHER
  train: decoder
  loss:
    reconstruction: {type: huber, delta: 1e-7}
    perceptual: {network: {type: transformers, from_pretrained: x}}
    adversarial: {}
  ema: {}
diffusion: {text_encoder: {type: pretrained, from_pretrained: y}, ema: null}
evaluation: {features: {type: transformers, from_pretrained: z}}
"""
MINIMAL = "name: tiny\ndata: {type: rendered_claims}\nautoencoder: {}\n"


@pytest.mark.parametrize("text", [MINIMAL, EVERY_PART, MINIMAL + "diffusion: {}\n"])
def test_what_is_written_reads_back_equal(write, tmp_path, text):
    recipe = read_recipe(write(text))
    write_recipe(recipe, tmp_path / "resolved.yaml")
    assert read_recipe(tmp_path / "resolved.yaml") == recipe
    assert (tmp_path / "resolved.yaml").read_text() == dump_recipe(recipe)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml", "resolved.yaml"]


def test_every_default_is_written_out(write):
    dumped = dump_recipe(read_recipe(write(EVERY_PART)))
    assert "\n  max_unreadable_share: 0.01\n" in dumped
    assert "\n    betas: [0.9, 0.99]\n" in dumped
    assert "\n      delta: 1e-07\n" in dumped
    assert "downsample_factor" not in dumped  # the pretrained weights decide it


@pytest.mark.parametrize(
    "text",
    [
        *("1e-4", "-.5e2", "1_000", "yes", "null", "~", "", " ", "0x1F", "0o7", ".inf", "true", "12:30", "=", "<<"),
        *("2024-01-01", "a: b", "a #b", "- a", "&x", "*x", "!x", "@x", "%x", "{a}", "[a]", "'q'", '"q"', "\\", "?"),
        *("two\nlines", "\ttab", "trailing ", "é ü 😀", "\x85\u2028\u2029\x00\x1f", "---", "x" * 5000),
        *("a\x85b", "a\u2028b", "a\u2029b", "\u2028", "a \x85 b"),
    ],
)
def test_any_text_reads_back(write, tmp_path, text):
    recipe = read_recipe(write())
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"caption_template": text + "{label}"})})
    write_recipe(recipe, tmp_path / "resolved.yaml")
    assert read_recipe(tmp_path / "resolved.yaml") == recipe


def test_random_text_reads_back(write, tmp_path):
    recipe, dice = read_recipe(write()), random.Random(0)
    for _ in range(40):
        text = "".join(dice.choice("ab 01.-+eE:#&*!{}[]'\"\\\n\t,?|>%@~é\x7f\xa0\ufeff😀") for _ in range(12))
        recipe = recipe.model_copy(update={"output_dir": text})
        write_recipe(recipe, tmp_path / "resolved.yaml")
        assert read_recipe(tmp_path / "resolved.yaml") == recipe


@pytest.mark.parametrize(
    ("overrides", "section", "lines"),
    [
        ([], "", []),
        (["seed=7"], "", ["seed: 0 -> 7"]),
        (["seed=7"], "seed", ["seed: 0 -> 7"]),
        (["seed=7"], "data", []),
        (["data.image_size=[32, 64]"], "data", ["data.image_size: 64 -> [32, 64]"]),
        (
            ["autoencoder.loss.kl_weight=1e-4", "autoencoder.size=small"],
            "autoencoder",
            ["autoencoder.size: tiny -> small", "autoencoder.loss.kl_weight: 1e-06 -> 0.0001"],
        ),
        (
            ["autoencoder.loss.kl_weight=1e-4", "autoencoder.size=small"],
            "autoencoder.loss",
            ["autoencoder.loss.kl_weight: 1e-06 -> 0.0001"],
        ),
        (["autoencoder.loss.adversarial={}"], "autoencoder", ["autoencoder.loss.adversarial: null -> {...}"]),
        (["diffusion=null"], "diffusion", ["diffusion: {...} -> null"]),
        (["diffusion=null"], "diffusion.trainer", ["diffusion.trainer: {...} -> null"]),
        (
            ["autoencoder.loss.reconstruction={type: huber}"],
            "autoencoder",
            ["autoencoder.loss.reconstruction.type: l1 -> huber"],
        ),
        (
            ["data.type=image_folder", "data.path=x", "data.image_size=32"],
            "data",
            ["data.image_size: 64 -> 32", "data.type: rendered_claims -> image_folder"],
        ),
        (["autoencoder.size=tiny"], "", []),
        (["data.detail=fine"], "data", ["data.detail: plain -> fine"]),
        (["data.detail=plain"], "", []),
    ],
)
def test_differences_are_lines_of_changed_keys(write, overrides, section, lines):
    path = write(MINIMAL + "diffusion: {}\n")
    assert recipe_differences(read_recipe(path), read_recipe(path, overrides), section) == lines
