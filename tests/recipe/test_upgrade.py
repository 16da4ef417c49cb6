"""Recipes of older formats mean what they meant; `format_1/` holds recipes of commit 3f0c8c3, which wrote no number."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from tests.recipe.conftest import MINIMAL
from vae_ldm.cli import app
from vae_ldm.errors import RecipeError
from vae_ldm.recipe import (
    Recipe,
    dump_recipe,
    packaged_recipes,
    read_recipe,
    recipe_differences,
    upgrade_recipe,
    write_recipe,
)
from vae_ldm.recipe.upgrade import NEWEST

FORMAT_1 = Path(__file__).with_name("format_1")
NAMES = ["claims-32", "finetune-lora", "thermal-solar"]
WITH_DIFFUSION = MINIMAL + "diffusion: {}\n"


@pytest.fixture
def warnings():
    """`read_recipe(path, warn=warnings.append)`"""
    return []


def test_there_are_six_old_recipes():
    assert len(list(FORMAT_1.glob("*.yaml"))) == 2 * len(NAMES)


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_are_of_the_newest_format(name, warnings):
    text = packaged_recipes()[name].read_text()
    assert f"\nformat: {NEWEST}\nname: {name}\n" in text
    recipe = read_recipe(packaged_recipes()[name], warn=warnings.append)
    assert dump_recipe(recipe).startswith(f"format: {NEWEST}\nname: {name}\n")
    assert warnings == []


@pytest.mark.parametrize("name", NAMES)
def test_an_old_recipe_means_what_the_old_version_resolved_it_to(name, tmp_path):
    old = read_recipe(FORMAT_1 / f"{name}.yaml")
    assert recipe_differences(old, read_recipe(FORMAT_1 / f"{name}.resolved.yaml")) == []
    resolved = YAML(typ="safe", pure=True).load((FORMAT_1 / f"{name}.resolved.yaml").read_text())
    stage, kl_weight = resolved["autoencoder"], resolved["autoencoder"]["loss"].pop("kl_weight")
    del stage["loss"]
    now = old.model_dump(mode="json")
    # A key of later: null is 0 for prompts of classes, as format 1 had it.
    encoder = now["diffusion"]["text_encoder"]
    assert encoder.pop("word_dropout", None) is None
    # Another key of later: format 1 cut every prompt at its longest caption.
    assert encoder.pop("min_length", None) == (2 if now["diffusion"]["from_pretrained"] is None else None)
    # Another: AdamW was the only one.
    assert {now[part]["optimizer"].pop("type") for part in ("autoencoder", "diffusion")} == {"adamw"}
    # Others: the last weights left the stage, after its last step, and the only average was an exponential one.
    for part in ("autoencoder", "diffusion"):
        later = {key: now[part]["trainer"].pop(key) for key in ("export", "best_by", "stop_after_no_gain_steps")}
        assert later == {"export": "last", "best_by": None, "stop_after_no_gain_steps": None}
        assert now[part]["trainer"].pop("gradient_checkpointing") is False
        assert (now[part]["ema"] or {"type": "exponential"}).pop("type") == "exponential"
    assert stage == {key: now["autoencoder"][key] for key in stage}
    assert resolved["diffusion"] == {key: now["diffusion"][key] for key in resolved["diffusion"]}
    if stage["train"] == "all":
        assert (old.autoencoder.loss.kl_weight, old.autoencoder.loss.kl_weight_per_latent) == (kl_weight, None)
    write_recipe(old, tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == old


@pytest.mark.parametrize("name", NAMES)
def test_the_packaged_recipe_of_today_trains_what_it_trained_before(name):
    """A finished run of the old one is not refused when README's command is repeated."""
    for old in (FORMAT_1 / f"{name}.yaml", FORMAT_1 / f"{name}.resolved.yaml"):
        assert recipe_differences(read_recipe(old), read_recipe(packaged_recipes()[name])) == []
        back = recipe_differences(read_recipe(packaged_recipes()[name]), read_recipe(old))
        from_scratch = read_recipe(old).diffusion.from_pretrained is None
        assert back == ["diffusion.text_encoder.min_length: 16 -> 2"] * from_scratch


def test_another_weight_differs_whichever_key_says_so():
    old, name = read_recipe(FORMAT_1 / "claims-32.yaml"), packaged_recipes()["claims-32"]
    changed = read_recipe(name, ["autoencoder.loss.kl_weight_per_latent=0.01537"])
    assert recipe_differences(old, changed, "autoencoder") == [
        "autoencoder.loss.kl_weight: 3e-05 -> null",
        "autoencoder.loss.kl_weight_per_latent: null -> 0.01537",
    ]
    assert recipe_differences(old, read_recipe(name, ["diffusion.timestep_sampling=uniform"]), "diffusion") == [
        "diffusion.timestep_sampling: logit_normal -> uniform"
    ]


@pytest.mark.parametrize(
    ("overrides", "kl", "sampling"),
    [
        ([], (1e-6, None), "logit_normal"),
        (["autoencoder.loss={}", "diffusion={}"], (1e-6, None), "logit_normal"),
        (["diffusion.prediction_type=epsilon"], (1e-6, None), "logit_normal"),
        (["autoencoder.loss.kl_weight=1e-5"], (1e-5, None), "logit_normal"),
        (["autoencoder.loss.kl_weight_per_latent=0.01"], (None, 0.01), "logit_normal"),
        (["diffusion.timestep_sampling=null"], (1e-6, None), None),
        (["autoencoder.variational=false"], (None, 5.12e-4), "logit_normal"),
        (["autoencoder.from_pretrained=a/b", "autoencoder.train=nothing"], (None, 5.12e-4), "logit_normal"),
    ],
)
def test_an_override_goes_before_what_an_old_recipe_leaves_to_its_defaults(write, overrides, kl, sampling):
    recipe = read_recipe(write(WITH_DIFFUSION), overrides)
    loss = recipe.autoencoder.loss
    assert (loss.kl_weight, loss.kl_weight_per_latent) == kl
    assert recipe.diffusion.timestep_sampling == sampling


def test_a_new_recipe_has_the_new_defaults(write):
    recipe = read_recipe(write("format: 2\n" + WITH_DIFFUSION))
    assert recipe.autoencoder.loss.kl_weight is None
    assert recipe.autoencoder.loss.kl_weight_per_latent == 5.12e-4
    assert recipe.diffusion.timestep_sampling is None


def test_a_run_begun_before_prompts_had_room_keeps_their_length(write):
    """Such a run has every key of its time written out, and not this one."""
    old = write("format: 2\n" + MINIMAL + "diffusion: {text_encoder: {type: trained}}\n")
    begun, asked = read_recipe(old, as_trained=True), read_recipe(old)
    assert (begun.diffusion.text_encoder.fewest_tokens, asked.diffusion.text_encoder.fewest_tokens) == (2, 16)
    assert recipe_differences(begun, asked) == []
    assert asked.as_begun(begun) == begun
    chosen = read_recipe(old, ["diffusion.text_encoder.min_length=16"])
    assert recipe_differences(begun, chosen) == ["diffusion.text_encoder.min_length: 2 -> 16"]


@pytest.mark.parametrize("start", ["format: 2\n", ""])
@pytest.mark.parametrize("given", ["kl_weight", "kl_weight_per_latent"])
def test_an_override_of_either_weight_replaces_the_other_in_the_file(write, start, given):
    text = f"{start}name: a\ndata: {{type: rendered_claims}}\nautoencoder: {{loss: {{{given}: 0.5}}}}\n"
    for key in ("kl_weight", "kl_weight_per_latent"):
        loss = read_recipe(write(text), [f"autoencoder.loss.{key}=0.25"]).autoencoder.loss
        other = {"kl_weight", "kl_weight_per_latent"} - {key}
        assert getattr(loss, key) == 0.25
        assert getattr(loss, other.pop()) is None


def test_both_weights_are_a_mistake(mistakes):
    text = "name: a\ndata: {type: rendered_claims}\nautoencoder:\n  loss:\n    kl_weight: 1\n"
    said = "autoencoder.loss.kl_weight: is given beside autoencoder.loss.kl_weight_per_latent; leave one of the two out"
    assert mistakes(text + "    kl_weight_per_latent: 1\n") == [f"r.yaml:5: {said}"]
    both = ["autoencoder.loss.kl_weight=1", "autoencoder.loss.kl_weight_per_latent=1"]
    assert mistakes(text, *both) == [f"override {both[0]}: {said.split(': ', 1)[1]}"]
    assert mistakes(f"format: 2\n{MINIMAL}", "autoencoder.loss.kl_weight_per_latent=null") == [
        "override autoencoder.loss.kl_weight_per_latent=null: needs a number; 0 trains without a KL term"
    ]


# --- one line ---------------------------------------------------------------------------------------------------------


def test_the_deprecated_key_works_with_one_line_that_says_what_to_write(write, warnings):
    text = "name: a\ndata: {type: rendered_claims, image_size: 32}\nautoencoder:\n  loss:\n    kl_weight: 1e-5\n"
    for start, line in (("format: 2\n", 6), ("", 5)):
        warnings.clear()
        read_recipe(write(start + text), warn=warnings.append)
        assert warnings == [
            f"r.yaml:{line}: autoencoder.loss.kl_weight is deprecated and goes with vae_ldm 0.3; "
            "write autoencoder.loss.kl_weight_per_latent: 0.00256 is the same for this recipe"
        ]
    warnings.clear()
    read_recipe(write("format: 2\n" + MINIMAL), ["autoencoder.loss.kl_weight=1e-5"], warn=warnings.append)
    assert len(warnings) == 1
    assert warnings[0].startswith("override autoencoder.loss.kl_weight=1e-5: autoencoder.loss.kl_weight is deprecated")
    assert upgrade_recipe(write(text))[1][-1].endswith("per_latent: 0.00256 is the same for this recipe")


def test_an_old_recipe_is_read_with_one_line(write, warnings):
    read_recipe(write(WITH_DIFFUSION), warn=warnings.append)
    assert warnings == [
        "r.yaml: is a recipe of format 1 and means what it meant in vae_ldm 0.1; "
        "`vae-ldm recipe upgrade r.yaml` prints it in format 2"
    ]


# --- formats that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            "3",
            "3 came with vae_ldm 0.3, and this version reads formats up to 2; install a newer one: "
            "pip install 'vae_ldm>=0.3'",
        ),
        ("0", "needs a whole number from 1 to 2, not 0"),
        ("2.0", "needs a whole number from 1 to 2, not 2.0"),
        ("true", "needs a whole number from 1 to 2, not true"),
        ("[2]", "needs a whole number from 1 to 2, not [2]"),
        ("", "needs a whole number from 1 to 2, not null"),
    ],
)
def test_a_format_that_this_version_does_not_read_is_refused(mistakes, number, said):
    assert mistakes(f"# mine\nformat: {number}\nname: no matter\n") == [f"r.yaml:2: format: {said}"]


def test_mistakes_of_an_old_recipe_name_the_users_own_lines(mistakes):
    text = "name: tiny\ndata: {type: rendered_claims}\nautoencoder:\n  loss:\n    ssim_weigth: 1\ndiffusion: 7\n"
    assert mistakes(text) == [
        "r.yaml:5: autoencoder.loss.ssim_weigth: unknown key; did you mean autoencoder.loss.ssim_weight?",
        "r.yaml:6: diffusion: needs a mapping, not 7",
    ]


# --- zero terminal SNR ------------------------------------------------------------------------------------------------


ZERO_SNR = "name: a\ndata: {type: rendered_claims}\nautoencoder: {}\ndiffusion:\n  prediction_type: v_prediction\n"
ZERO_SNR += "  zero_terminal_snr: true\n"


def test_zero_terminal_snr_is_refused_where_its_last_timestep_is_not_trained(mistakes, write):
    snr = "diffusion.zero_terminal_snr"
    never = f"logit_normal never draws the last timestep, for which {snr} exists; use uniform, or leave it out"
    new = "format: 2\n" + ZERO_SNR
    assert mistakes(new + "  timestep_sampling: logit_normal\n") == [f"r.yaml:8: diffusion.timestep_sampling: {never}"]
    assert mistakes(new + "  min_snr_gamma: 5\n") == [
        f"r.yaml:8: diffusion.min_snr_gamma: weighs the last timestep with 0, for which {snr} exists; "
        "leave one of the two out"
    ]
    assert read_recipe(write(new)).diffusion.timestep_sampling is None
    # An old recipe meant logit_normal where it said nothing.
    assert mistakes(ZERO_SNR) == [f"r.yaml:4: diffusion.timestep_sampling: {never}"]
    assert read_recipe(write(ZERO_SNR + "  timestep_sampling: uniform\n")).diffusion.zero_terminal_snr


def test_an_old_run_that_was_trained_so_can_still_be_opened(write):
    recipe = read_recipe(write(ZERO_SNR), as_trained=True)
    assert recipe.diffusion.timestep_sampling == "logit_normal"
    with pytest.raises(RecipeError):
        read_recipe(write(f"format: 2\n{ZERO_SNR}  timestep_sampling: logit_normal\n"), as_trained=True)


# --- vae-ldm recipe upgrade -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}.resolved" for name in NAMES)])
def test_an_upgraded_file_is_the_same_recipe(name, tmp_path):
    text, changes = upgrade_recipe(FORMAT_1 / f"{name}.yaml")
    (tmp_path / "new.yaml").write_text(text)
    assert read_recipe(tmp_path / "new.yaml") == read_recipe(FORMAT_1 / f"{name}.yaml")
    assert changes[0] == "format: 1 -> 2"
    again, said = upgrade_recipe(tmp_path / "new.yaml")
    assert (again, said[0]) == (text, "is of format 2 already")
    assert [line.partition(" is deprecated")[0] for line in said[1:]] == ["autoencoder.loss.kl_weight"] * (
        "kl_weight:" in text
    )


def test_the_upgraded_file_keeps_the_users_comments(write):
    text = (
        "# my recipe\n\nname: tiny  # a name\n# where the photos are\ndata: {type: rendered_claims}\nautoencoder:\n"
        "  loss:  # terms\n    ssim_weight: 0.50\n  # big\n  optimizer: {learning_rate: 4.0e-3}\ndiffusion: {}\n"
    )
    path = write(text)
    result = CliRunner().invoke(app, ["recipe", "upgrade", str(path)])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "# my recipe",
        "",
        "format: 2",
        "name: tiny  # a name",
        "# where the photos are",
        "data: {type: rendered_claims}",
        "autoencoder:",
        "  loss:  # terms",
        "    kl_weight: 1e-06",
        "    ssim_weight: 0.50",
        "  # big",
        "  optimizer: {learning_rate: 4.0e-3}",
        "diffusion:",
        "  text_encoder:",
        "    min_length: 2",
        "    type: trained",
        "  timestep_sampling: logit_normal",
    ]
    assert result.stderr.splitlines() == [
        "r.yaml: format: 1 -> 2",
        "r.yaml: autoencoder.loss.kl_weight: 1e-06 (the default of format 1; later formats weigh per latent number)",
        "r.yaml: diffusion.timestep_sampling: 'logit_normal' (the default of format 1; later formats choose by "
        "prediction_type)",
        "r.yaml: diffusion.text_encoder.type: 'trained' (the default of format 1)",
        "r.yaml: diffusion.text_encoder.min_length: 2 (format 1 cut prompts at the longest caption)",
        "r.yaml: autoencoder.loss.kl_weight is deprecated and goes with vae_ldm 0.3; write "
        "autoencoder.loss.kl_weight_per_latent: 0.001024 is the same for this recipe",
    ]
    assert path.read_text() == text


def test_a_recipe_with_mistakes_is_not_upgraded(write):
    result = CliRunner().invoke(app, ["recipe", "upgrade", str(write(MINIMAL + "foo: 1\n"))])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: r.yaml:4: foo: unknown key;")


def test_a_recipe_made_in_python_is_of_the_newest_format():
    settings = {"name": "a", "data": {"type": "rendered_claims"}, "autoencoder": {}}
    assert Recipe.model_validate(settings).format == NEWEST


@pytest.mark.parametrize(("rank", "num_lines"), [("0", 1), ("1", 0)])
def test_of_several_processes_one_says_what_is_deprecated(write, rank, num_lines):
    result = CliRunner().invoke(app, ["recipe", "check", str(write())], env={"RANK": rank})
    assert result.stdout == "r.yaml: in order\n"
    assert len(result.stderr.splitlines()) == num_lines
