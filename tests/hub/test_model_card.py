"""The card, from facts to Markdown with the Hub's metadata."""

from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.hub.server import LICENSES
from vae_ldm.hub.model_card import CardFacts, Licence, model_card, plain
from vae_ldm.pages.environment import image_size
from vae_ldm.recipe import Recipe
from vae_ldm.recipe.portable import portable

PSNR = {
    "name": "psnr", "value": 25.3456, "unit": "dB", "split": "validation", "num_images": 341, "stage": "autoencoder",
    "better": "higher", "reference": 23.5, "reference_name": "PCA floor (f4c4)", "low": 25.1, "high": 25.5,
}  # fmt: skip
FD = {
    "name": "fd_EffLite0_pca64", "value": 40.0, "unit": "", "split": "generated", "num_images": 256,
    "stage": "diffusion", "better": "lower", "features": "EffLite0, 64 principal axes of 1280 dimensions",
}  # fmt: skip
METRICS: dict[str, Any] = {
    "created": "2026-11-24T10:00:00+00:00",
    "device": "CPU, 1 threads",
    "measurements": [PSNR, FD],
    "timings": [{"stage": "autoencoder", "seconds": 290.7, "num_images": 6400}, {"stage": "sampling", "seconds": 3}],
    "data": {"train": 3068, "validation": 341, "image_size": [24, 40], "unreadable": 2, "class_names": ["a", "b"]},
    "versions": {"torch": "2.13.0"},
}
NOTHING: dict[str, Any] = {"measurements": [], "timings": [], "data": {}, "versions": {}, "created": "", "device": ""}


def card(data: dict[str, Any], *, diffusion: dict[str, Any] | None = None, **facts: Any) -> ModelCard:
    settings = {"name": "tins", "data": {"image_size": 16} | data, "autoencoder": {}, "diffusion": diffusion}
    recipe = portable(Recipe.model_validate(settings)).model_dump(mode="json")
    text = model_card(CardFacts("acme/tins", recipe, **({"metrics": METRICS} | facts)))
    assert text == model_card(CardFacts("acme/tins", recipe, **({"metrics": METRICS} | facts)))
    assert "\n\n\n" not in text
    return ModelCard(text)


def test_numbers_stand_with_what_they_were_measured_on():
    made, size = card({"type": "rendered_claims"}, diffusion={}), image_size([24, 40])
    assert (
        f"| psnr\N{NO-BREAK SPACE}↑ | 25.35 dB | 25.10 to 25.50 | 341 validation pictures, {size} | "
        "1.85 dB above PCA floor (f4c4), 23.50 dB |"
    ) in made.text
    assert (
        "| fd\\_EffLite0\\_pca64\N{NO-BREAK SPACE}↓ "
        rf"| 40.00 |  | 256 generated pictures, {size}, features: EffLite0, "
        "64 principal axes of 1280 dimensions |  |"
    ) in made.text
    assert "There were 3,068 pictures to train on and 341 held out to measure with, in 2 classes; 2 f" in made.text
    assert "The autoencoder saw 6,400 pictures in 4 min 51 s." in made.text
    assert "sampling" not in made.text
    psnr, fd = made.data.eval_results
    assert (psnr.task_type, psnr.metric_value, psnr.metric_args) == ("image-to-image", 25.3456, {"num_images": 341})
    assert (fd.task_type, fd.dataset_split, fd.metric_args["features"]) == (
        "text-to-image",
        "generated",
        FD["features"],
    )


@pytest.mark.parametrize(
    ("data", "words", "command", "datasets"),
    [
        ({"type": "rendered_claims"}, "No photo was used", "train hf://acme/tins\n", None),
        (
            {"type": "image_folder", "path": "/home/anna/photos"},
            "It was trained on its maker's own photos, which are not published with it.",
            "train hf://acme/tins data.path=PHOTOS\n",
            None,
        ),
        (
            {"type": "hub_dataset", "path": "acme/pictures"},
            "[acme/pictures](https://huggingface.co/datasets/acme/pictures)",
            "train hf://acme/tins\n",
            ["acme/pictures"],
        ),
        ({"type": "hub_dataset", "path": "../shards"}, "its maker's own photos", "data.path=PHOTOS\n", None),
        (
            {"type": "mixture", "sources": [{"type": "rendered_claims"}]},
            "pictures that vae_ldm draws itself (`rendered_claims`). No photo was used.",
            "train hf://acme/tins\n",
            None,
        ),
        (
            {
                "type": "mixture",
                "sources": [
                    {"type": "hub_dataset", "path": "acme/pictures"},
                    {"type": "rendered_claims"},
                    {"type": "image_folder", "path": "/home/anna/photos"},
                    {"type": "hub_dataset", "path": "acme/more"},
                ],
            },
            "trained on a mixture:\n"
            "- the data set [acme/pictures](https://huggingface.co/datasets/acme/pictures)\n"
            "- the data set [acme/more](https://huggingface.co/datasets/acme/more)\n"
            "- its maker's own photos, which are not published with it\n"
            "- pictures that vae_ldm draws itself (`rendered_claims`)\n\nThere were",
            "train hf://acme/tins 'data.sources[2].path=PHOTOS'\n",
            ["acme/pictures", "acme/more"],
        ),
    ],
)
def test_data(data, words, command, datasets):
    made = card(data)
    assert words in made.text
    assert command in made.text
    assert "/home/anna" not in str(made)
    assert made.data.datasets == datasets


@pytest.mark.parametrize(
    ("conditioning", "task"), [("none", "unconditional-image-generation"), ("caption", "text-to-image")]
)
def test_what_it_is_called_with(conditioning, task):
    made = card({"type": "rendered_claims"}, diffusion={"conditioning": conditioning})
    assert made.data.pipeline_tag == task
    assert "    '', num_inference_steps=12" in made.text
    assert ("the pictures' own captions" in made.text) == (conditioning == "caption")


def test_the_interval_of_a_difference_stands_beside_it():
    paired = PSNR | {"reference_kind": "floor", "difference_low": 1.71, "difference_high": 1.98}
    made = card({"type": "rendered_claims"}, diffusion={}, metrics=METRICS | {"measurements": [paired]})
    assert "1.85 dB [1.71, 1.98] above PCA floor (f4c4), 23.50 dB" in made.text.replace("\\", "")


@pytest.mark.parametrize("unfit", [True, False])
def test_an_autoencoder_unfit_for_float16_is_told(unfit):
    made = card({"type": "rendered_claims"}, diffusion={}, metrics=METRICS | {"force_upcast": unfit})
    assert ("**It is unfit for float16**" in made.text) == unfit


def test_the_code_runs_as_it_stands():
    prompts = ['a photo of a "5 inch" tin', "it's | a\nphoto"]
    for facts in ({"diffusion": {}, "prompts": prompts}, {"prompts": []}):
        text = card({"type": "rendered_claims"}, **facts).text
        code = text.split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
    assert "a photo of a" in card({"type": "rendered_claims"}, diffusion={}, prompts=prompts).text


def test_under_way_and_nothing_measured():
    made = card({"type": "rendered_claims"}, diffusion={}, metrics=NOTHING, step=(500, 2000))
    assert "**Training is under way: step 500 of 2,000.** Nothing has been measured yet." in made.text
    assert made.data.eval_results is None


@pytest.mark.parametrize("licence", [Licence("mit", "says its maker"), Licence()])
def test_licence_and_base(licence):
    made = card({"type": "rendered_claims"}, licence=licence, base_models=["acme/base"])
    assert made.data.license == licence.id
    assert licence.id in (None, *LICENSES)
    assert made.data.base_model == ["acme/base"]
    assert "started from [acme/base](https://huggingface.co/acme/base)" in made.text
    assert ("The licence is mit, says its maker." if licence.id else "No licence was named; ask its maker") in made.text


def test_pictures_and_their_captions():
    made = card({"type": "rendered_claims"}, pictures=["samples/samples.png", "samples/reconstructions.png"])
    assert "![samples](samples/samples.png)\n\n*These pictures are new" in made.text
    assert "![reconstructions](samples/reconstructions.png)\n\n*Each pair" in made.text


def test_what_users_write_is_shown_as_it_is():
    assert plain("a|b <script> `x`\n[y](z) _q_ *w* #1 ~") == r"a\|b \<script\> \`x\` \[y\](z) \_q\_ \*w\* \#1 ~"


@pytest.mark.parametrize("exported", ["student", "teacher"])
def test_a_card_says_which_of_teacher_and_student_it_is(exported):
    judged = {
        "exported": exported, "because": "KID 0.9 is above the interval", "num_samples": 1024,
        "student": {"num_inference_steps": 4, "passes": 4}, "teacher": {"num_inference_steps": 12, "passes": 24},
    }  # fmt: skip
    steps = judged[exported]["num_inference_steps"]
    metrics = METRICS | {"distillation": judged, "drawn_with": {"num_inference_steps": steps, "guidance_scale": 3.0}}
    text = card({"type": "rendered_claims"}, diffusion={"distill": {}}, metrics=metrics).text
    assert f"num_inference_steps={steps}, guidance_scale=3.0" in text
    assert f"with samples of {steps} steps at guidance 3.0." in text
    student = (
        "It draws well in 4 steps at a guidance from 1 to 4, and takes no negative prompt. Its teacher took 24 passes"
    )
    assert (student in text) == (exported == "student")
    other = "A student of few steps was trained too. It is not what lies here: KID 0.9 is above the interval."
    assert (other in text) == (exported == "teacher")
