import pytest
from pydantic import ValidationError

from vae_ldm.errors import RecipeError
from vae_ldm.recipe import Recipe, read_recipe
from vae_ldm.recipe.disagreement import SettingsError
from vae_ldm.recipe.parts import AdamW, DiffusionTrainer, Ema, Muon, PowerEma, Trainer

FULL = """\
name: tiny
data: {type: image_folder, path: photos, image_size: [24, 40], caption_template: "{label}"}
autoencoder:
  loss:
    reconstruction: {type: huber, delta: 0.5}
    kl_weight: 1e-4
    perceptual: {network: {type: transformers, from_pretrained: ORG/NAME}}
  optimizer: {betas: [0.9, 0.95], learning_rate: 1}
diffusion:
  trainer: {max_steps: 7}
"""


def test_a_recipe_is_read(write):
    recipe = read_recipe(write(FULL))
    assert recipe.image_size == (24, 40)
    assert recipe.data.image_size == (24, 40)
    assert recipe.autoencoder.loss.kl_weight == 1e-4
    assert recipe.autoencoder.loss.reconstruction.delta == 0.5
    assert recipe.autoencoder.optimizer.betas == (0.9, 0.95)
    assert recipe.autoencoder.optimizer.learning_rate == 1.0
    assert recipe.diffusion.trainer.max_steps == 7


def test_defaults_of_a_part_hold_whether_or_not_it_is_begun(write):
    assert read_recipe(write(FULL)).diffusion.trainer.batch_size == DiffusionTrainer().batch_size == 64
    assert read_recipe(write()).autoencoder.trainer == Trainer()


def test_an_absent_stage_is_not_run(write):
    assert read_recipe(write()).diffusion is None


def test_an_optimizer_without_a_type_is_adamw(write):
    text = "name: a\ndata: {type: rendered_claims}\nautoencoder: {optimizer: {%slearning_rate: 1e-2}}\n"
    plain = read_recipe(write(text % ""))
    assert plain.autoencoder.optimizer == AdamW(learning_rate=1e-2)
    assert plain == read_recipe(write(text % "type: adamw, "))
    assert read_recipe(write(text % "type: muon, ")).autoencoder.optimizer == Muon(learning_rate=1e-2)


def test_an_average_without_a_type_is_exponential(write):
    text = "name: a\ndata: {type: rendered_claims}\nautoencoder: {}\ndiffusion: {ema: %s}\n"
    assert read_recipe(write(text % "{decay: 0.9}")).diffusion.ema == Ema(decay=0.9)
    assert read_recipe(write(text % "{}")).diffusion.ema == Ema()
    assert read_recipe(write(text % "{type: exponential, decay: 0.9}")).diffusion.ema == Ema(decay=0.9)
    assert read_recipe(write(text % "null")).diffusion.ema is None
    power = read_recipe(write(text % "{type: power, lengths: [0.05, 0.2], num_snapshots: 8}")).diffusion.ema
    assert power == PowerEma(lengths=(0.05, 0.2), num_snapshots=8)


# One line of a part of the recipe, and what it is refused with.
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nam: x", "nam: unknown key; did you mean name?"),
        (
            "autoencoder: {trainer: {max_stepz: 1}}",
            "autoencoder.trainer.max_stepz: unknown key; did you mean autoencoder.trainer.max_steps?",
        ),
        (
            "autoencoder: {trainer: {max-steps: 1}}",
            "autoencoder.trainer.max-steps: unknown key; did you mean autoencoder.trainer.max_steps?",
        ),
        (
            "autoencoder: {trainer: {learning_rate: 1e-3}}",
            "autoencoder.trainer.learning_rate: unknown key; did you mean autoencoder.optimizer.learning_rate?",
        ),
        ("max_steps: 5", "max_steps: unknown key; did you mean autoencoder.trainer.max_steps?"),
        ("diffusion: {ema: {foo: 5}}", "diffusion.ema.foo: unknown key; legal: type, decay"),
        (
            "autoencoder: {loss: {reconstruction: {type: l1, delta: 0.1}}}",
            "autoencoder.loss.reconstruction.delta: unknown key; type l1 has none, type huber has",
        ),
        (
            "autoencoder: {loss: {reconstruction: {type: hubert}}}",
            "autoencoder.loss.reconstruction.type: unknown type 'hubert'; did you mean huber? legal: l1, l2, huber",
        ),
        (
            "autoencoder: {loss: {reconstruction: {type: [l1]}}}",
            "autoencoder.loss.reconstruction.type: unknown type ['l1']; legal: l1, l2, huber",
        ),
        (
            "autoencoder: {loss: {reconstruction: {delta: 0.1}}}",
            "autoencoder.loss.reconstruction: has no type; legal: l1, l2, huber",
        ),
        (
            "autoencoder: {optimizer: {momentum: 0.9}}",
            "autoencoder.optimizer.momentum: unknown key; type adamw has none, type muon has",
        ),
        (
            "autoencoder: {optimizer: {type: mun}}",
            "autoencoder.optimizer.type: unknown type 'mun'; did you mean muon? legal: adamw, muon",
        ),
        (
            "diffusion: {ema: {type: power, decay: 0.9}}",
            "diffusion.ema.decay: unknown key; type power has none, type exponential has",
        ),
        ("diffusion: {ema: {type: power, lengths: [0.3]}}", "diffusion.ema.lengths[0]: must be at most 0.28, not 0.3"),
        (
            "diffusion: {flow_shift: 3.0, prediction_type: epsilon}",
            "diffusion.flow_shift: has no meaning for epsilon; leave it out",
        ),
        (
            "diffusion: {contrastive_weight: 0.05, conditioning: none}",
            "diffusion.contrastive_weight: compares pictures of different prompts, and without conditioning there is "
            "one",
        ),
        ("diffusion: {ema: {type: power, lengths: []}}", "diffusion.ema.lengths: has too few items: []"),
        (
            "diffusion: {trainer: {best_by: val/psnr}}",
            "diffusion.trainer.best_by: is not measured in this stage; legal: val/loss",
        ),
        (
            "autoencoder: {trainer: {export: best, max_steps: 100}}",
            "autoencoder.trainer.val_every_n_steps: nothing is validated in max_steps 100, which "
            "autoencoder.trainer.export needs",
        ),
        ("autoencoder: {optimizer: muon}", "autoencoder.optimizer: needs a mapping, not 'muon'"),
        ("autoencoder: {loss: {reconstruction: l2}}", "autoencoder.loss.reconstruction: needs a mapping, not 'l2'"),
        (
            "diffusion: {text_encoder: {type: pretrained}}",
            "diffusion.text_encoder.from_pretrained: required by type 'pretrained', but missing",
        ),
        (
            "autoencoder: {size: Small}",
            "autoencoder.size: unknown value 'Small'; did you mean small? legal: tiny, compact, small, sd",
        ),
        (
            "autoencoder: {trainer: {precision: fp16}}",
            "autoencoder.trainer.precision: unknown value 'fp16'; legal: 32-true, bf16-mixed, 16-mixed, null",
        ),
        ("autoencoder: {downsample_factor: 3}", "autoencoder.downsample_factor: unknown value 3; legal: 2, 4, 8, 16"),
        (
            "autoencoder: {downsample_factor: 4.0}",
            "autoencoder.downsample_factor: unknown value 4.0; legal: 2, 4, 8, 16",
        ),
        (
            "autoencoder: {downsample_factor: '4'}",
            "autoencoder.downsample_factor: unknown value '4'; did you mean 4? legal: 2, 4, 8, 16",
        ),
        ("data: {type: rendered_claims, channels: true}", "data.channels: unknown value true; legal: 1, 3, 4, null"),
        ("seed: 1.0", "seed: needs a whole number, not 1.0"),
        ("seed: '7'", "seed: needs a whole number, not '7'; leave out the quotes"),
        ("seed: true", "seed: needs a whole number, not true"),
        ("seed: -1", "seed: must be at least 0, not -1"),
        ("seed: 9223372036854775808", "seed: must be at most 9223372036854775807, not 9223372036854775808"),
        ("name: 2024", "name: needs text, not 2024; put it in quotes"),
        (
            "name: a/b",
            "name: must begin with a letter or digit and hold letters, digits, '.', '_' and '-' only, not 'a/b'",
        ),
        ("output_dir: null", "output_dir: needs text, not null"),
        (
            "autoencoder: {variational: yes}",
            "autoencoder.variational: needs true or false, not 'yes'; did you mean true?",
        ),
        (
            "autoencoder: {variational: Off}",
            "autoencoder.variational: needs true or false, not 'Off'; did you mean false?",
        ),
        ("autoencoder: {variational: 1}", "autoencoder.variational: needs true or false, not 1"),
        ("autoencoder:", "autoencoder: needs a mapping, not null; write {} for a part that is all defaults"),
        ("diffusion: true", "diffusion: needs a mapping, not true"),
        ("diffusion: [1]", "diffusion: needs a mapping, not [1]"),
        ("diffusion: {dropout: 1.5}", "diffusion.dropout: must be at most 1, not 1.5"),
        ("diffusion: {dropout: much}", "diffusion.dropout: needs a number, not 'much'"),
        ("diffusion: {ema: {decay: 1.0}}", "diffusion.ema.decay: must be less than 1, not 1.0"),
        ("autoencoder: {loss: {ssim_weight: .inf}}", "autoencoder.loss.ssim_weight: must be a finite number, not inf"),
        ("autoencoder: {loss: {ssim_weight: .nan}}", "autoencoder.loss.ssim_weight: must be a finite number, not nan"),
        ("data: {type: rendered_claims, num_train: 0}", "data.num_train: must be more than 0, not 0"),
        (
            "data: {type: rendered_claims, image_size: big}",
            "data.image_size: needs a whole number or a list, not 'big'",
        ),
        (
            "data: {type: rendered_claims, image_size: 64.0}",
            "data.image_size: needs a whole number or a list, not 64.0",
        ),
        ("data: {type: rendered_claims, image_size: 4}", "data.image_size: must be at least 8, not 4"),
        ("data: {type: rendered_claims, image_size: [64]}", "data.image_size: has too few items: [64]"),
        ("data: {type: rendered_claims, image_size: []}", "data.image_size: has too few items: []"),
        ("data: {type: rendered_claims, image_size: [8, 8, 8]}", "data.image_size: has too many items: [8, 8, 8]"),
        ("data: {type: rendered_claims, image_size: [64, a]}", "data.image_size[1]: needs a whole number, not 'a'"),
        ("data: {type: rendered_claims, image_size: [64, 5000]}", "data.image_size[1]: must be at most 4096, not 5000"),
        ("autoencoder: {crop_size: {a: 1}}", "autoencoder.crop_size: needs a whole number or a list, not a mapping"),
        ("autoencoder: {optimizer: {betas: [0.9]}}", "autoencoder.optimizer.betas: has too few items: [0.9]"),
        ("autoencoder: {optimizer: {betas: [0.9, 2]}}", "autoencoder.optimizer.betas[1]: must be less than 1, not 2"),
        # Bounds: with none of these a run could end.
        ("autoencoder: {optimizer: {betas: [1.0, 0]}}", "autoencoder.optimizer.betas[0]: must be less than 1, not 1.0"),
        (
            "autoencoder: {optimizer: {learning_rate: 11}}",
            "autoencoder.optimizer.learning_rate: must be at most 10, not 11",
        ),
        (
            "autoencoder: {latent_channels: 1000000000}",
            "autoencoder.latent_channels: must be at most 1024, not 1000000000",
        ),
        (
            "autoencoder: {loss: {adversarial: {num_layers: 30}}}",
            "autoencoder.loss.adversarial.num_layers: must be at most 8, not 30",
        ),
        (
            "autoencoder: {loss: {adversarial: {num_layers: 7}}}",
            "autoencoder.loss.adversarial.num_layers: its layers halve 64 px to less than one; at most 6 fit",
        ),
        ("evaluation: {num_inference_steps: 1500}", "evaluation.num_inference_steps: must be at most 1000, not 1500"),
        ('output_dir: "a\\0b"', "output_dir: holds a character that no path has, not 'a\\x00b'"),
        ("output_dir: ''", "output_dir: must not be empty"),
        ('data: {type: image_folder, path: "a\\0b"}', "data.path: holds a character that no path has, not 'a\\x00b'"),
        (
            "autoencoder: {from_pretrained: a/b, subfolder: ../../etc}",
            "autoencoder.subfolder: must be a folder below it, such as vae, not '../../etc'",
        ),
        (
            'evaluation: {features: {type: lpips, "a\\nb": 1}}',
            "evaluation.features.type: unknown type 'lpips'; legal: efficientnet_lite, transformers",
        ),
        ('diffusion: {ema: {"a\\nb": 1}}', "diffusion.ema.a\\nb: unknown key; legal: type, decay"),
    ],
)
def test_one_mistake_one_line(mistakes, line, complaint):
    parts = {"name": "name: tiny", "data": "data: {type: rendered_claims}", "autoencoder": "autoencoder: {}"}
    others = [text for key, text in parts.items() if not line.startswith(f"{key}:")]
    assert mistakes("\n".join([*others, "# the culprit:", line])) == [f"r.yaml:{len(others) + 2}: {complaint}"]


def test_missing_keys(mistakes):
    assert mistakes("# a recipe\n\nseed: 1\n") == [
        "r.yaml:3: name: required, but missing",
        "r.yaml:3: data: required, but missing",
        "r.yaml:3: autoencoder: required, but missing",
    ]
    assert mistakes("name: a\nautoencoder: {}\ndata:\n  type: image_folder\n") == [
        "r.yaml:4: data.path: required by type 'image_folder', but missing"
    ]


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        (
            "autoencoder: {train: decoder}\n",
            ["r.yaml:3: autoencoder.train: decoder needs autoencoder.from_pretrained"],
        ),
        (
            "autoencoder:\n  from_pretrained: x\n  size: sd\n  latent_channels: 4\n",
            [
                "r.yaml:5: autoencoder.size: comes from the pretrained weights; leave it out",
                "r.yaml:6: autoencoder.latent_channels: comes from the pretrained weights; leave it out",
            ],
        ),
        (
            # The size is a default here: the line is that of the factor.
            "autoencoder:\n  downsample_factor: 16\n  crop_size: 72\n",
            [
                "r.yaml:5: autoencoder.crop_size: larger than data.image_size",
                "r.yaml:5: autoencoder.crop_size: 72x72 is not divisible by autoencoder.downsample_factor 16; "
                "the nearest that is: 64x64",
            ],
        ),
        (
            "autoencoder: {}\ndiffusion:\n  min_snr_gamma: 5\n  zero_terminal_snr: true\n",
            [
                "r.yaml:5: diffusion.min_snr_gamma: has no meaning for flow_prediction; leave it out",
                "r.yaml:6: diffusion.zero_terminal_snr: needs prediction_type: v_prediction",
            ],
        ),
    ],
)
def test_settings_that_disagree(mistakes, text, complaints):
    assert mistakes("name: tiny\ndata: {type: rendered_claims}\n" + text) == complaints


def test_sizes_and_factor_disagree_at_the_line_of_either(mistakes):
    complaint = "data.image_size: 60x60 is not divisible by autoencoder.downsample_factor 8; the nearest that is: 64x64"
    text = "name: a\nautoencoder: {downsample_factor: 8}\ndata: {type: rendered_claims, image_size: 60}\n"
    assert mistakes(text) == [f"r.yaml:3: {complaint}"]
    text = "name: a\nautoencoder: {}\ndata: {type: rendered_claims, image_size: 60}\n"
    assert mistakes(text, "autoencoder.downsample_factor=8") == [
        f"override autoencoder.downsample_factor=8: {complaint}"
    ]


@pytest.mark.parametrize(
    ("logger", "said"),
    [
        ("{type: foo}", "loggers[0].type: unknown type 'foo'; legal: tensorboard, wandb, mlflow, comet_ml"),
        ("{}", "loggers[0]: has no type; legal: tensorboard, wandb, mlflow, comet_ml"),
        ("{type: wandb}", "loggers[0].project: required by type 'wandb', but missing"),
        ("{type: wandb, projct: p}", "loggers[0].projct: unknown key; did you mean loggers[0].project?"),
        (
            "{type: tensorboard, project: p}",
            "loggers[0].project: unknown key; type tensorboard has none, type wandb has",
        ),
    ],
)
def test_parts_in_a_list_are_found_in_the_schema(mistakes, logger, said):
    text = f"name: a\nautoencoder: {{}}\ndata: {{type: rendered_claims, image_size: 32}}\nloggers: [{logger}]\n"
    assert f"r.yaml:4: {said}" in mistakes(text)


def test_what_is_wrong_below_a_misspelt_type_is_said_as_well(mistakes):
    text = "name: a\nautoencoder: {}\ndata:\n  type: image_foldr\n  path: 12\n  image_sze: 64\n"
    legal = "rendered_claims, image_folder, hub_dataset, mixture"
    unknown = f"unknown type 'image_foldr'; did you mean image_folder? legal: {legal}"
    assert mistakes(text) == [
        f"r.yaml:4: data.type: {unknown}",
        "r.yaml:5: data.path: needs text, not 12; put it in quotes",
        "r.yaml:6: data.image_sze: unknown key; did you mean data.image_size?",
    ]


def test_every_mistake_at_once_in_order_of_lines(mistakes):
    text = """\
name: 5
data:
  type: image_folder
  image_size: [64, a]
autoencoder:
  loss:
    reconstruction: {type: l3}
    kl_weight: cheap
  trainer: {max_stepz: 5, precision: fp16}
  crop_size: 9
  crop_size: 16
diffusion:
  zero_terminal_snr: true
  prediction_typ: epsilon
foo: 1
"""
    lines = mistakes(text, "diffusion.trainer.max_steps=abc", "seed=-1", "nonsense")
    assert [line.split(": ")[:2] for line in lines] == [
        ["r.yaml:1", "name"],
        ["r.yaml:3", "data.path"],
        ["r.yaml:4", "data.image_size[1]"],
        ["r.yaml:7", "autoencoder.loss.reconstruction.type"],
        ["r.yaml:8", "autoencoder.loss.kl_weight"],
        ["r.yaml:9", "autoencoder.trainer.precision"],
        ["r.yaml:9", "autoencoder.trainer.max_stepz"],
        ["r.yaml:11", "autoencoder.crop_size"],
        ["r.yaml:14", "diffusion.prediction_typ"],
        ["r.yaml:15", "foo"],
        ["override diffusion.trainer.max_steps=abc", "needs a whole number, not 'abc'"],
        ["override seed=-1", "must be at least 0, not -1"],
        ["override nonsense", "an override is written key.sub=value"],
    ]


def test_disagreements_are_found_beside_wrong_keys(mistakes):
    text = "name: a\nautoencoder: {train: decoder, sise: 5}\ndata: {type: rendered_claims, image_size: 62}\nseed: x\n"
    assert [line.split(": ")[:2] for line in mistakes(text)] == [
        ["r.yaml:2", "autoencoder.sise"],
        ["r.yaml:2", "autoencoder.train"],
        ["r.yaml:3", "data.image_size"],
        ["r.yaml:4", "seed"],
    ]


def test_a_wrong_key_causes_no_disagreement_with_its_default(mistakes):
    text = "name: a\nautoencoder: {crop_size: 128}\ndata: {type: rendered_claims, image_size: large}\n"
    assert mistakes(text) == ["r.yaml:3: data.image_size: needs a whole number or a list, not 'large'"]


def test_in_python_disagreements_are_one_pydantic_error():
    with pytest.raises(ValidationError, match=r"autoencoder\.train: decoder needs") as caught:
        Recipe.model_validate({"name": "a", "data": {"type": "rendered_claims"}, "autoencoder": {"train": "decoder"}})
    cause = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, SettingsError)
    assert cause.disagreements[0].keys == ("autoencoder.train", "autoencoder.from_pretrained")


def test_a_tilde_in_output_dir_is_the_home_folder(write, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    text = "name: tiny\ndata: {type: rendered_claims}\nautoencoder: {}\n"
    assert read_recipe(write(text), ["output_dir=~/runs"]).run_folder == tmp_path / "anna" / "runs" / "tiny"
    with pytest.raises(RecipeError, match="output_dir: ~nosuchuser/runs: there is no such home folder"):
        _ = read_recipe(write(text), ["output_dir=~nosuchuser/runs"]).run_folder
