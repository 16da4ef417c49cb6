import json
from typing import get_args

import pytest

from vae_ldm.choices import Export, Stage
from vae_ldm.recipe import Recipe, keys_free_under_way, parts, recipe_json_schema
from vae_ldm.recipe.portable import TRAVELLING
from vae_ldm.recipe.stages import EXPORTS, STAGES, TRAINED, from_stage_on


def test_a_stage_follows_from_sections_that_a_recipe_has_and_from_all_that_earlier_stages_follow_from():
    earlier: set[str] = set()
    for stage in STAGES:
        assert set(stage.follows_from) <= set(Recipe.model_fields)
        assert stage.section.partition(".")[0] in stage.follows_from
        assert earlier <= set(stage.follows_from)
        earlier |= set(stage.follows_from)
    assert [stage.name for stage in TRAINED] == ["autoencoder", "diffusion", "distillation"]


def test_no_two_stages_write_the_same():
    written = [name for stage in STAGES for name in stage.writes]
    assert len(written) == len(set(written))


def test_every_folder_of_weights_is_the_export_of_one_stage():
    """`vae_ldm.weights`, which knows no recipe, looks into all of `Export`."""
    assert sorted(EXPORTS) == sorted(get_args(Export))


@pytest.mark.parametrize(
    ("names", "afresh"),
    [
        ([], []),
        (["evaluation"], ["evaluation"]),
        (["evaluation", "diffusion"], ["diffusion", "distillation", "evaluation"]),
        (["distillation"], ["distillation", "evaluation"]),
        (["autoencoder"], ["autoencoder", "diffusion", "distillation", "evaluation"]),
    ],
)
def test_a_stage_that_begins_afresh_takes_along_all_that_follow(names, afresh):
    assert [stage.name for stage in from_stage_on(names)] == afresh


def test_the_schema_marks_what_weights_decide():
    marked = {
        part: [key for key, field in part.model_fields.items() if parts.is_decided_by_weights(field)]
        for part in (parts.Autoencoder, parts.Diffusion)
    }
    assert marked == {
        parts.Autoencoder: ["size", "downsample_factor", "latent_channels"],
        parts.Diffusion: ["size", "text_encoder", "prediction_type", "zero_terminal_snr", "dropout"],
    }
    described = json.loads(recipe_json_schema())["$defs"]["Diffusion"]["properties"]
    assert described["dropout"]["x-decided-by-weights"] is True
    assert "x-decided-by-weights" not in described["conditioning"]


def test_the_schema_marks_what_may_change_under_way():
    free = keys_free_under_way()
    assert {"autoencoder.trainer.max_steps", "diffusion.trainer.on_nan"} <= free
    sections = [stage.section for stage in TRAINED]
    others = {f"{section}.ema.keep_snapshots" for section in sections}
    assert all(any(key.startswith(f"{section}.trainer.") for section in sections) for key in free - others)
    assert len(free) == 36
    marked = json.loads(recipe_json_schema())["$defs"]["Trainer"]["properties"]
    assert marked["max_steps"]["x-free-under-way"] is True
    assert "x-free-under-way" not in marked["batch_size"]


def test_every_stage_stands_in_the_list_of_choices_and_in_what_travels():
    names = tuple(stage.name for stage in STAGES)
    assert names == get_args(Stage)
    assert ("format", "name", "seed", "data", *names) == TRAVELLING


def test_a_stage_that_trains_says_what_its_best_checkpoint_is_and_what_the_report_tells_of_it():
    for stage in TRAINED:
        assert stage.best(None) == stage.metrics[0]
        assert stage.summary.endswith(".")
        assert stage.exports
        assert set(stage.exports) <= set(stage.writes)
    assert [stage.title for stage in STAGES] == ["Autoencoder", "Diffusion", "Distillation", "Evaluation"]
