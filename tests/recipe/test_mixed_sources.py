"""A recipe of several sources: what each inherits, what is refused, and how it is overridden, written and sent."""

import re
from pathlib import Path

import pytest

from vae_ldm.recipe import dump_recipe, parts, read_recipe
from vae_ldm.recipe.portable import PLACEHOLDER, decided_by_a_stranger, portable
from vae_ldm.recipe.writing import recipe_differences

MIXTURE = """\
format: 2
name: mix
data:
  type: mixture
  image_size: 32
  color_jitter: 0.1
  sources:
  - {type: image_folder, path: ../a, image_size: [24, 40], weight: 3}
  - {type: rendered_claims, color_jitter: 0, horizontal_flip: true}
  - {type: hub_dataset, path: ORG/NAME, weight: 0.5}
autoencoder: {crop_size: 16}
"""


def test_a_source_has_the_keys_of_the_mixture_where_it_does_not_say_them(write):
    recipe = read_recipe(write(MIXTURE))
    folder, claims, hub = recipe.data.all_sources
    assert [type(one.part) for one in (folder, claims, hub)] == [
        parts.ImageFolder,
        parts.RenderedClaims,
        parts.HubDataset,
    ]
    assert [one.weight for one in (folder, claims, hub)] == [3.0, 1.0, 0.5]
    assert [one.key for one in (folder, hub)] == ["data.sources[0]", "data.sources[2]"]
    assert (folder.part.path, folder.part.image_size, folder.part.color_jitter) == ("../a", (24, 40), 0.1)
    assert (claims.part.image_size, claims.part.color_jitter, claims.part.horizontal_flip) == (32, 0.0, True)
    assert (hub.part.path, hub.part.train_split, hub.part.max_pixels) == ("ORG/NAME", "train", 89_478_485)
    assert recipe.image_size == (32, 32)
    assert recipe.image_sizes == ((24, 40), (32, 32))
    assert recipe.data.photo_folder is None


def test_sources_of_one_size_decide_the_size_of_the_recipe(write):
    text = MIXTURE.replace("image_size: [24, 40], ", "")
    assert read_recipe(write(text), ["data.image_size=48", "diffusion={}"]).image_size == (48, 48)
    sizes = [f"data.sources[{number}].image_size=64" for number in range(3)]
    assert read_recipe(write(MIXTURE), sizes).image_size == (64, 64)


def test_a_resolved_mixture_reads_back_to_an_equal_one_that_still_inherits(write, tmp_path):
    recipe = read_recipe(write(MIXTURE))
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert read_recipe(tmp_path / "again.yaml") == recipe
    smaller = read_recipe(tmp_path / "again.yaml", ["data.image_size=16"])
    assert smaller.data.all_sources[1].part.image_size == 16


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (("weight: 3", "weight: 0"), ["r.yaml:8: data.sources[0].weight: must be more than 0, not 0"]),
        (
            ("type: rendered_claims", "type: mixture"),
            [
                "r.yaml:9: data.sources[1].type: unknown type 'mixture'; "
                "legal: rendered_claims, image_folder, hub_dataset"
            ],
        ),
        (
            ("weight: 0.5", "wieght: 0.5"),
            ["r.yaml:10: data.sources[2].wieght: unknown key; did you mean data.sources[2].weight?"],
        ),
        (("path: ../a, ", ""), ["r.yaml:8: data.sources[0].path: required by type 'image_folder', but missing"]),
        (
            ("crop_size: 16", "crop_size: 28"),
            ["r.yaml:11: autoencoder.crop_size: larger than data.sources[0].image_size"],
        ),
        (
            ("{crop_size: 16}", "{}"),
            [
                "r.yaml:5: data.image_size: the sources have 24x40, 32x32, and a batch holds one size; "
                "set autoencoder.crop_size, to fit into each"
            ],
        ),
        (
            ("{crop_size: 16}", "{crop_size: 16}\ndiffusion: {}"),
            [
                "r.yaml:5: data.image_size: a UNet draws pictures of one size, and the sources have 24x40, 32x32; "
                "give all the same image_size"
            ],
        ),
        (
            ("[24, 40]", "[24, 42]"),
            [
                "r.yaml:8: data.sources[0].image_size: 24x42 is not divisible by autoencoder.downsample_factor 4; "
                "the nearest that is: 24x40"
            ],
        ),
        (
            ("weight: 0.5", "channels: 4"),
            [
                "r.yaml:10: data.sources[2].channels: 4 (RGBA) is for all sources of a mixture or for none; "
                "set data.channels: 4"
            ],
        ),
        (
            ("weight: 0.5", "caption_template: a scan"),
            ["r.yaml:10: data.sources[2].caption_template: must hold {label}, where the class's name goes"],
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(mistakes, change, lines):
    assert mistakes(MIXTURE.replace(*change)) == lines


def test_a_mixture_has_sources(mistakes):
    head = "format: 2\nname: mix\nautoencoder: {}\ndata:\n  type: mixture\n"
    assert mistakes(head) == ["r.yaml:5: data.sources: required by type 'mixture', but missing"]
    assert mistakes(f"{head}  sources: []\n") == ["r.yaml:6: data.sources: has too few items: []"]
    many = ", ".join(["{type: rendered_claims}"] * 101)
    assert mistakes(f"{head}  sources: [{many}]\n")[0].startswith("r.yaml:6: data.sources: has too many items: [a map")


def test_a_class_has_one_prompt_in_all_sources(write, mistakes):
    text = MIXTURE.replace("image_size: [24, 40]", 'caption_template: "a scan of {label}"')
    line = "data.sources[0].caption_template: a class has one prompt in all sources; set data.caption_template, or"
    assert mistakes(text, "diffusion={}") == [f"r.yaml:8: {line} conditioning: caption"]
    recipe = read_recipe(write(text), ["diffusion.conditioning=caption"])
    assert recipe.data.all_sources[0].part.caption_template == "a scan of {label}"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (MIXTURE.replace("weight: 3", "random_resized_crop: true"), "r.yaml:8: data.sources[0].random_resized_crop"),
        (MIXTURE.replace("color_jitter: 0.1", "random_resized_crop: true"), "r.yaml:6: data.random_resized_crop"),
    ],
)
def test_a_crop_of_a_random_scale_needs_a_size_of_crops(mistakes, text, place):
    one_size = text.replace("image_size: [24, 40], ", "")
    assert mistakes(one_size.replace("crop_size: 16", "")) == [f"{place}: means nothing without autoencoder.crop_size"]


def test_a_crop_that_does_not_fit_is_refused_with_pretrained_weights_too(mistakes):
    text = MIXTURE.replace("crop_size: 16", "crop_size: 28, from_pretrained: ORG/NAME")
    assert mistakes(text) == ["r.yaml:11: autoencoder.crop_size: larger than data.sources[0].image_size"]


def test_an_override_reaches_into_a_list(write, mistakes):
    recipe = read_recipe(write(MIXTURE), ["data.sources[0].weight=2", "data.sources[2]={type: rendered_claims}"])
    assert [one.weight for one in recipe.data.all_sources] == [2.0, 1.0, 1.0]
    assert recipe.data.sources[2].type == "rendered_claims"
    recipe = read_recipe(write(MIXTURE), ["data.sources[2].type=image_folder"])
    assert recipe.data.all_sources[2].part.path == "ORG/NAME"
    assert mistakes(MIXTURE, "data.sources[3].weight=2", "data.sources[0].weight=x", "name[0]=x") == [
        "override data.sources[3].weight=2: data.sources has 3 items, counted from 0",
        "override data.sources[0].weight=x: needs a number, not 'x'",
        "override name[0]=x: name is 'mix', which is no list and has no items",
    ]


def test_paths_of_this_machine_do_not_travel(write, tmp_path):
    text = dump_recipe(portable(read_recipe(write(MIXTURE))))
    assert "../a" not in text
    assert text.count(PLACEHOLDER) == 1
    (tmp_path / "travelled.yaml").write_text(text)
    back = read_recipe(tmp_path / "travelled.yaml")
    assert back.data.sources[2].path == "ORG/NAME"
    assert list(decided_by_a_stranger(back, [])) == ["data.sources[0].path"]
    for override in ("data.sources[0].path=x", "data.sources[0]={}", "data.sources=[]", "data={}"):
        assert list(decided_by_a_stranger(back, [override])) == []
    assert list(decided_by_a_stranger(back, ["data.sources[1].path=x"])) == ["data.sources[0].path"]


def test_a_difference_is_told_at_its_source(write):
    one = read_recipe(write(MIXTURE))
    other = read_recipe(write(MIXTURE), ["data.sources[0].weight=2"])
    assert recipe_differences(one, other) == ["data.sources[0].weight: 3.0 -> 2.0"]
    fewer = read_recipe(write(MIXTURE.replace("  - {type: hub_dataset, path: ORG/NAME, weight: 0.5}\n", "")))
    assert recipe_differences(one, fewer) == [
        "data.sources: [a mapping, a mapping, a mapping] -> [a mapping, a mapping]"
    ]


def test_the_recipe_of_the_page_is_right(write):
    page = (Path(__file__).parents[2] / "docs" / "mixtures.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    recipe = read_recipe(write(text))
    assert [one.weight for one in recipe.data.all_sources] == [2.0, 1.0, 1.0, 0.5]
    assert [one.part.random_resized_crop for one in recipe.data.all_sources] == [True] * 4
