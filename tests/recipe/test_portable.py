from typing import Annotated, get_args, get_origin

import pytest

from vae_ldm.recipe import Recipe, dump_recipe, read_recipe
from vae_ldm.recipe.parts import Part, place_kind
from vae_ldm.recipe.portable import (
    NOT_TRAVELLING,
    PLACEHOLDER,
    TRAVELLING,
    decided_by_a_stranger,
    local_paths,
    portable,
)
from vae_ldm.recipe.schema_walk import part_types

SECRETS = """\
format: 2
name: tins
output_dir: /home/alice/runs
data: {type: image_folder, path: /home/alice/clients/acme-fraud-case-17, caption_template: "a {label}"}
autoencoder:
  from_pretrained: ~/alice/vae
  loss: {perceptual: {network: {type: transformers, from_pretrained: C:\\net}}}
diffusion: {text_encoder: {type: pretrained, from_pretrained: openai/clip-vit-large-patch14}}
evaluation: {features: {type: transformers, from_pretrained: ./alice}}
loggers:
- {type: mlflow, experiment_name: acme, tracking_uri: "http://alice:s3cret@mlflow.internal:5000"}
- {type: wandb, project: acme, entity: alice}
hub: {repository: alice/acme}
"""


def test_only_what_makes_a_run_repeatable_travels(write, tmp_path, monkeypatch):
    recipe = read_recipe(write(SECRETS))
    text = dump_recipe(portable(recipe))
    for secret in ("alice", "acme", "s3cret", "mlflow", "wandb", "net}"):
        assert secret not in text
    assert "openai/clip-vit-large-patch14" in text
    assert text.count(PLACEHOLDER) == 4
    (tmp_path / "travelled.yaml").write_text(text)
    back = read_recipe(tmp_path / "travelled.yaml")
    assert (back.name, back.data.caption_template, back.hub) == ("tins", "a {label}", None)
    assert list(decided_by_a_stranger(back, [])) == [
        "data.path",
        "autoencoder.from_pretrained",
        "autoencoder.loss.perceptual.network.from_pretrained",
        "evaluation.features.from_pretrained",
    ]
    overrides = ["data={type: rendered_claims}", "autoencoder.from_pretrained=x/y", "evaluation.features=..."]
    assert list(decided_by_a_stranger(back, overrides)) == ["autoencoder.loss.perceptual.network.from_pretrained"]
    assert list(decided_by_a_stranger(recipe, overrides))[:3] == ["output_dir", "hub", "loggers"]


@pytest.mark.parametrize(
    ("data", "is_path"),
    [
        ("{type: hub_dataset, path: mnist}", False),
        ("{type: hub_dataset, path: ORG/photos}", False),
        ("{type: hub_dataset, path: here}", True),
        ("{type: hub_dataset, path: here/photos}", True),
        ("{type: hub_dataset, path: /photos}", True),
        ("{type: hub_dataset, path: a/b/c}", True),
        ("{type: hub_dataset, path: ../photos}", True),
        ("{type: hub_dataset, path: 's3://bucket/photos'}", True),
        ("{type: image_folder, path: ORG/photos}", True),
    ],
)
def test_a_word_is_a_path_unless_it_can_only_be_a_name_on_the_hub(write, tmp_path, data, is_path):
    (tmp_path / "here").mkdir()
    recipe = read_recipe(write(f"name: a\ndata: {data}\nautoencoder: {{}}\n"))
    assert [path.key for path in local_paths(recipe)] == ["output_dir", *(["data.path"] if is_path else [])]


def test_the_starter_is_a_name_and_travels_unless_a_folder_here_has_that_name(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(write("name: a\ndata: {type: rendered_claims}\nautoencoder: {from_pretrained: starter}\n"))
    assert portable(recipe).autoencoder.from_pretrained == "starter"
    assert list(decided_by_a_stranger(recipe, [])) == []
    (tmp_path / "starter").mkdir()
    assert list(decided_by_a_stranger(recipe, [])) == ["autoencoder.from_pretrained"]
    assert portable(recipe).autoencoder.from_pretrained == "starter"  # a run keeps whole paths, so this is the name


def _texts(part: type[Part], prefix: str = ""):
    """Every setting below the part that may hold text: dotted key and field."""
    for key, field in part.model_fields.items():
        for below in part_types(field.annotation):
            yield from _texts(below, f"{prefix}{key}.")
        if _holds_text(field.annotation):
            yield f"{prefix}{key}", field


def _holds_text(annotation) -> bool:
    if get_origin(annotation) is Annotated:
        return _holds_text(get_args(annotation)[0])
    return annotation is str or (not part_types(annotation) and any(map(_holds_text, get_args(annotation))))


def test_a_new_setting_that_holds_text_says_whether_it_travels():
    """The list is closed: what holds text and is marked as no place is one of these words."""
    unmarked = {key for key, field in _texts(Recipe) if key.split(".")[0] in TRAVELLING and place_kind(field) is None}
    words = {"config_name", "revision", "train_split", "validation_split"}
    words |= {"image_column", "label_column", "caption_column", "caption_template"}
    assert unmarked == {
        "name",
        *(f"{place}.{word}" for word in words for place in ("data", "data.sources")),
        "autoencoder.revision",
        "autoencoder.subfolder",
        "diffusion.revision",
        "diffusion.text_encoder.revision",
        "diffusion.lora.target_modules",
    }
    assert NOT_TRAVELLING == ("output_dir", "hub", "loggers")
