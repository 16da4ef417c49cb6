import shlex

import pytest

from vae_ldm.recipe import read_recipe

HEAD = "name: tiny\nautoencoder: {}\n"


def _get(recipe, path):
    value = recipe
    for key in path.split("."):
        value = getattr(value, key)
    return value


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("name=other", "name", "other"),
        ('name="7"', "name", "7"),
        ("autoencoder.loss.kl_weight=1e-4", "autoencoder.loss.kl_weight", 1e-4),
        ("autoencoder.loss.ssim_weight= 0", "autoencoder.loss.ssim_weight", 0.0),
        ("autoencoder.optimizer.betas=[0.5, 0.9]", "autoencoder.optimizer.betas", (0.5, 0.9)),
        ("autoencoder.variational=false", "autoencoder.variational", False),
        ("data.image_size=[24, 40]", "data.image_size", (24, 40)),
        ("data.caption_template=a: b", None, None),
        ("data.caption_template=x=y {label}", "data.caption_template", "x=y {label}"),
        ("data.caption_template=", None, None),
        ("autoencoder.trainer.gradient_clip_norm=null", "autoencoder.trainer.gradient_clip_norm", None),
        # Parts that are absent are made, of their default type.
        ("diffusion={}", "diffusion.size", "tiny"),
        ("diffusion.trainer.max_steps=5", "diffusion.trainer.max_steps", 5),
        ("diffusion.trainer.max_steps=5", "diffusion.trainer.batch_size", 64),
        ("diffusion.text_encoder.hidden_size=8", "diffusion.text_encoder.hidden_size", 8),
        ("autoencoder.loss.adversarial.start=0.1", "autoencoder.loss.adversarial.start", 0.1),
        ("autoencoder.loss.perceptual.network.type=lpips", "autoencoder.loss.perceptual.network.net", "vgg"),
        ("autoencoder.loss.reconstruction.type=huber", "autoencoder.loss.reconstruction.delta", 0.1),
        ("autoencoder.loss.reconstruction={type: huber, delta: 2.0}", "autoencoder.loss.reconstruction.delta", 2.0),
    ],
)
def test_a_value_is_yaml_and_replaces_the_recipes(write, mistakes, override, path, value):
    text = HEAD + "data: {type: rendered_claims}\n"
    if path is None:
        assert mistakes(text, override)[0].startswith(f"override {override}: ")
    else:
        assert _get(read_recipe(write(text), [override]), path) == value


def test_the_later_override_wins(write):
    text = HEAD + "data: {type: rendered_claims}\ndiffusion: {size: base}\n"
    assert read_recipe(write(text), ["diffusion=null"]).diffusion is None
    assert read_recipe(write(text), ["diffusion.dropout=0.5", "diffusion=null"]).diffusion is None
    again = ["diffusion=null", "diffusion={}", "diffusion.dropout=0.5"]
    assert read_recipe(write(text), again).diffusion.size == "tiny"
    assert read_recipe(write(text), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("null", "key", "below"),
    [
        ("diffusion=null", "diffusion", "diffusion.trainer.max_steps=4"),
        ("diffusion={text_encoder: null}", "diffusion.text_encoder", "diffusion.text_encoder.hidden_size=8"),
        ("autoencoder.loss.perceptual=", "autoencoder.loss.perceptual", "autoencoder.loss.perceptual.weight=0.1"),
    ],
)
def test_an_override_below_what_another_sets_to_null_is_a_mistake(mistakes, null, key, below):
    text = HEAD + "data: {type: rendered_claims}\ndiffusion: {}\n"
    assert f"override {below}: override {null} sets {key} to null; leave out one of the two" in mistakes(
        text, null, below
    )


def test_keys_that_are_not_overridden_stay(write):
    text = HEAD + "data: {type: rendered_claims}\ndiffusion: {size: base, trainer: {batch_size: 3}}\n"
    diffusion = read_recipe(write(text), ["diffusion.trainer.max_steps=5"]).diffusion
    assert (diffusion.size, diffusion.trainer.batch_size, diffusion.trainer.max_steps) == ("base", 3, 5)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_new_type_keeps_what_it_shares_with_the_old_and_drops_the_rest(write, reverse):
    text = HEAD + "data: {type: rendered_claims, num_train: 9, image_size: 32}\n"
    overrides = ["data.type=image_folder", "data.path=photos"]
    data = read_recipe(write(text), overrides[::-1] if reverse else overrides).data
    assert (data.type, data.path, data.image_size) == ("image_folder", "photos", 32)


def test_a_new_type_does_not_hide_what_neither_knows_nor_what_an_override_says(mistakes):
    text = HEAD + "data: {type: rendered_claims, num_trian: 9}\n"
    assert mistakes(text, "data.num_train=5", "data.type=image_folder") == [
        "r.yaml:3: data.num_trian: unknown key; legal: image_size, channels, resize, horizontal_flip, color_jitter, "
        "random_resized_crop, caption_template, validation_fraction, max_unreadable_share, max_pixels, type, path, "
        "caption_column",
        "override data.num_train=5: unknown key; type image_folder has none, type rendered_claims has",
        "override data.type=image_folder: data.path: required by type 'image_folder', but missing",
    ]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("diffusion.trainer.max_steps=abc", "needs a whole number, not 'abc'"),
        ("autoencoder.trainer.max_stepz=5", "unknown key; did you mean autoencoder.trainer.max_steps?"),
        ("autoencodr.size=tiny", "autoencodr: unknown key; did you mean autoencoder?"),
        (
            "autoencoder.loss={kl_wight: 1}",
            "autoencoder.loss.kl_wight: unknown key; did you mean autoencoder.loss.kl_weight?",
        ),
        ("data=null", "needs a mapping, not null; write {} for a part that is all defaults"),
        (
            "data.type=image_folders",
            "unknown type 'image_folders'; did you mean image_folder? "
            "legal: rendered_claims, image_folder, hub_dataset",
        ),
        ("autoencoder.optimizer.betas=[0, 2]", "autoencoder.optimizer.betas[1]: must be less than 1, not 2"),
        ("autoencoder.loss.reconstruction.delta=1", "unknown key; type l1 has none, type huber has"),
        ("seed", "an override is written key.sub=value"),
        ("=5", "an override is written key.sub=value"),
        ("a..b=5", "an override is written key.sub=value"),
        ("--seed=5", "unknown key; did you mean seed?"),
        ("name.first=a", "name is 'tiny', which has no keys; set name as a whole"),
        ("data.image_size.0=8", "data.image_size is [8, 8], which has no keys; set data.image_size as a whole"),
        (
            "seed=[1",
            "the value is not YAML: expected ',' or ']', but got '<stream end>'; write 'seed=\"[1\"'",
        ),
        (
            "data.path=@x",
            "the value is not YAML: found character '@' that cannot start any token; write 'data.path=\"@x\"'",
        ),
        ("seed=*x", "anchors and aliases (&name, *name) are not allowed; write the value out"),
        (
            "seed=!!python/name:os.system",
            "tags (tag:yaml.org,2002:python/name:os.system) are not allowed; write the plain value",
        ),
        ("autoencoder.loss={kl_weight: 1, kl_weight: 2}", "given twice"),
        ("name=2024", "needs text, not 2024; write 'name=\"2024\"'"),
        ("name=it's #1", "in YAML a # begins a comment, which would be cut off; write 'name=\"it'\"'\"'s #1\"'"),
        (
            "data.path=photos #2",
            "in YAML a # begins a comment, which would be cut off; write 'data.path=\"photos #2\"'",
        ),
        ("data.path=#2", "in YAML a # begins a comment, which would be cut off; write 'data.path=\"#2\"'"),
        ("data.image_size=[8, 8] # px", "in YAML a # begins a comment, which would be cut off; write "),
        ('name="\\UFFFFFFFF"', "the value is not YAML: an escape that names no character"),
        ("seed=9223372036854775808", "must be at most 9223372036854775807, not 9223372036854775808"),
        ("name=a\x01", "the value is not YAML: "),
        ("name=a\nb", "must begin with a letter or digit"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(mistakes, override, complaint):
    text = HEAD + "data: {type: rendered_claims, image_size: [8, 8]}\n"
    (line,) = mistakes(text, override)
    override = override.replace("\n", "\\n").replace("\x01", "\\x01")
    assert line.startswith(f"override {override}: {complaint}")


def test_a_cure_works_in_a_shell(write):
    (argument,) = shlex.split("'name=\"2024\"'")
    assert read_recipe(write(HEAD + "data: {type: rendered_claims}\n"), [argument]).name == "2024"
    (argument,) = shlex.split("'data.path=\"photos #2\"'")
    data = read_recipe(write(HEAD + "data: {type: image_folder, path: x}\n"), [argument]).data
    assert data.path == "photos #2"
    # A # without a space before it is part of a word, as in YAML.
    assert read_recipe(write(HEAD + "data: {type: image_folder, path: x}\n"), ["data.path=a#2"]).data.path == "a#2"


def test_a_path_of_keys_that_is_too_deep_is_one_short_line(mistakes):
    (line,) = mistakes(HEAD + "data: {type: rendered_claims}\n", "a." * 1000 + "a=1")
    assert line.endswith("...: nested deeper than 32 levels")
    assert len(line) < 300
