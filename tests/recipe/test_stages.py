import json
from typing import get_args

import pytest

from vae_ldm.choices import Stage
from vae_ldm.recipe import Recipe, keys_free_under_way, recipe_json_schema
from vae_ldm.recipe.portable import TRAVELLING
from vae_ldm.recipe.stages import STAGES, TRAINED, from_stage_on, stage_named


def test_a_stage_follows_from_sections_that_a_recipe_has_and_from_all_that_earlier_stages_follow_from():
    earlier: set[str] = set()
    for stage in STAGES:
        assert set(stage.follows_from) <= set(Recipe.model_fields)
        assert stage.name in stage.follows_from
        assert earlier <= set(stage.follows_from)
        earlier |= set(stage.follows_from)
    assert [stage.name for stage in TRAINED] == ["autoencoder", "diffusion"]


def test_no_two_stages_write_the_same():
    written = [name for stage in STAGES for name in stage.writes]
    assert len(written) == len(set(written))


@pytest.mark.parametrize(
    ("names", "afresh"),
    [
        ([], []),
        (["evaluation"], ["evaluation"]),
        (["evaluation", "diffusion"], ["diffusion", "evaluation"]),
        (["autoencoder"], ["autoencoder", "diffusion", "evaluation"]),
    ],
)
def test_a_stage_that_begins_afresh_takes_along_all_that_follow(names, afresh):
    assert [stage.name for stage in from_stage_on(names)] == afresh


def test_keys_that_weights_decide_are_keys_of_the_stage():
    for stage in TRAINED:
        section = Recipe.model_validate(
            {"name": "a", "data": {"type": "rendered_claims"}, "autoencoder": {}, "diffusion": {}}
        ).model_dump()[stage.name]
        assert set(stage_named(stage.name).decided_by_weights) <= set(section)


def test_the_schema_marks_what_may_change_under_way():
    free = keys_free_under_way()
    assert {"autoencoder.trainer.max_steps", "diffusion.trainer.on_nan"} <= free
    assert all(key.split(".")[:2] in (["autoencoder", "trainer"], ["diffusion", "trainer"]) for key in free)
    assert len(free) == 18
    marked = json.loads(recipe_json_schema())["$defs"]["Trainer"]["properties"]
    assert marked["max_steps"]["x-free-under-way"] is True
    assert "x-free-under-way" not in marked["batch_size"]


def test_every_stage_stands_in_the_list_of_choices_and_in_what_travels():
    names = tuple(stage.name for stage in STAGES)
    assert names == get_args(Stage)
    assert ("format", "name", "seed", "data", *names) == TRAVELLING


def test_a_stage_that_trains_says_what_its_best_checkpoint_is_and_what_the_report_tells_of_it():
    for stage in TRAINED:
        assert stage.best is not None
        assert stage.summary.endswith(".")
    assert [stage.title for stage in STAGES] == ["Autoencoder", "Diffusion", "Evaluation"]
