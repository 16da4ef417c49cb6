"""Fine-tuning what exists: which weights move, what stays valid, and what plain diffusers opens afterwards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tests.run.conftest import assert_same_weights
from tests.run.start_points import FLUX, LAYOUTS, save_autoencoder, save_stable_diffusion
from vae_ldm import loading
from vae_ldm.assembly import build_autoencoder, build_diffusion, build_lit_latent_diffusion
from vae_ldm.errors import VaeLdmError, WeightsError
from vae_ldm.files import write_json
from vae_ldm.models.lora import LORA_FILE
from vae_ldm.opening import open_pipeline
from vae_ldm.pipelines.schedulers import new_scheduler
from vae_ldm.recipe import Recipe
from vae_ldm.run.export import export_checkpoint
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.push import push
from vae_ldm.run.stages import train_run


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_stable_diffusion(tmp_path / "sd15")


@pytest.fixture
def finetune(make_recipe: Any, base: Path, tmp_path: Path) -> Any:
    """Run the tiny recipe from `base`, with settings of the diffusion stage and overrides of the recipe."""

    def run(stage: dict[str, Any], *, autoencoder: str = "nothing", **overrides: Any) -> RunFolder:
        trainer = {"max_steps": 2, "batch_size": 2, "checkpoint_every_n_steps": 1, "precision": "32-true"}
        first: dict[str, Any] = {"from_pretrained": str(base), "train": autoencoder}
        if autoencoder != "nothing":
            first["trainer"] = {"max_steps": 1, "batch_size": 2}
        optimizer = {"learning_rate": 0.01, "warmup_steps": 0, "lr_scheduler": "constant"}
        second = {"from_pretrained": str(base), "optimizer": optimizer, "trainer": trainer, **stage}
        settings = {"data__image_size": 32, "data__num_train": 8, "autoencoder": first, "diffusion": second}
        train_run(make_recipe(**settings | overrides))
        return RunFolder(tmp_path / "nano")

    return run


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 3, "generator": generator, "output_type": "np"}
    return pipeline("a tin", height=32, width=32, **options).images


def plain(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)


@pytest.mark.parametrize(
    ("train", "text_encoder_moves", "moves"),
    [
        ("all", True, lambda name: True),
        ("unet", False, lambda name: True),
        ("attention", False, lambda name: ".attn1." in name or ".attn2." in name),
    ],
)
def test_what_is_trained_moves_and_nothing_else(finetune, base, train, text_encoder_moves, moves):
    run = finetune({"train": train})
    before, after = plain(base), StableDiffusionPipeline.from_pretrained(run.pipeline)
    names = changed(before.unet, after.unet)
    assert names
    assert all(moves(name) for name in names)
    assert any(".attn2." in name for name in names)
    assert bool(changed(before.text_encoder, after.text_encoder)) == text_encoder_moves
    assert changed(before.vae, after.vae) == set()
    assert after.vae.config.scaling_factor == 0.18215
    assert isinstance(after.scheduler, PNDMScheduler)
    assert after.scheduler.config.skip_prk_steps
    assert after.unet.config.sample_size == 4  # it draws what it was trained on by default
    assert after.tokenizer("a tin").input_ids == before.tokenizer("a tin").input_ids


@pytest.mark.parametrize("train", ["all", "unet", "attention", "lora"])
def test_the_dropout_of_a_pretrained_unet_acts_in_training_and_that_of_frozen_text_does_not(
    make_recipe, tmp_path, train
):
    source = str(save_stable_diffusion(tmp_path / "sd", dropout=0.5))
    stages: dict[str, Any] = {
        "autoencoder": {"from_pretrained": source, "train": "nothing"},
        "diffusion": {"from_pretrained": source, "train": train},
    }
    recipe = make_recipe(data__image_size=32, **stages)
    autoencoder = build_autoencoder(recipe, image_channels=3)
    module = build_lit_latent_diffusion(recipe, build_diffusion(recipe, autoencoder, []))
    dropouts = [each for each in module.unet.modules() if isinstance(each, nn.Dropout) and each.p > 0]
    assert dropouts
    assert all(each.training for each in dropouts)
    assert all(each.training == (train == "all") for each in module.text_encoder.modules())


def test_a_lora_is_of_the_same_strength_for_a_program_that_reads_no_metadata(finetune, base, tmp_path):
    run = finetune({"train": "lora", "lora": {"rank": 4, "alpha": 32.0}})
    with_notes, without = plain(base), plain(base)
    with_notes.load_lora_weights(run.lora)
    weights = load_file(run.lora / LORA_FILE)
    without.load_lora_weights({name: value.clone() for name, value in weights.items()})
    assert np.abs(draw(with_notes) - draw(plain(base))).max() > 1e-3
    assert np.array_equal(draw(with_notes), draw(without))
    with safe_open(run.lora / LORA_FILE, "pt") as file:
        notes = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (notes["unet.r"], notes["unet.lora_alpha"]) == (4, 4)
    # A file of 3f0c8c3 left the scale to the notes, and means what it meant.
    ups = {name: value / 8 if "lora.up" in name or "lora_B" in name else value for name, value in weights.items()}
    assert any(not torch.equal(ups[name], weights[name]) for name in ups)
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(notes | {"unet.lora_alpha": 32.0})}
    (tmp_path / "old").mkdir()
    save_file(ups, tmp_path / "old" / LORA_FILE, metadata=metadata)
    old = plain(base)
    old.load_lora_weights(tmp_path / "old")
    np.testing.assert_allclose(draw(old), draw(with_notes), atol=1e-5)


def test_a_lora_file_opens_in_plain_diffusers_and_is_the_run(finetune, base, tmp_path, monkeypatch):
    asked: list[str] = []  # of the Hub, by peft
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda name, _: asked.append(name))
    run = finetune({"train": "lora", "lora": {"rank": 2}})
    assert not asked
    assert not run.pipeline.exists()
    with pytest.raises(VaeLdmError, match="is a LoRA beside its base, and a push sends a whole pipeline"):
        push(run.path, "acme/tins")
    with safe_open(run.lora / "pytorch_lora_weights.safetensors", "pt") as file:
        names = list(file.keys())
    assert {name.partition(".")[0] for name in names} == {"unet"}
    assert {name.rpartition(".lora")[0].rpartition("attn")[2].partition(".")[2] for name in names} == {
        "to_q", "to_k", "to_v", "to_out.0",
    }  # fmt: skip

    pipeline = plain(base)
    untouched = draw(pipeline)
    pipeline.load_lora_weights(run.lora)
    with_lora = draw(pipeline)
    assert np.abs(with_lora - untouched).max() > 1e-3
    opened = loading.pipeline(run.path)
    assert np.array_equal(draw(opened), with_lora)
    assert open_pipeline(run.path).unet.config.sample_size == 4
    pipeline.unload_lora_weights()
    assert np.array_equal(draw(pipeline), untouched)

    opened.save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(draw(plain(tmp_path / "merged")), with_lora, atol=1e-4)
    assert np.array_equal(draw(opened), with_lora)  # merging is of a copy


@pytest.mark.parametrize("channels_last", [False, True])  # as on a GPU
def test_a_lora_is_merged_on_request_and_on_export(finetune, base, tmp_path, channels_last):
    lora = {"merge": True, "target_modules": ["to_q", "conv1"], "alpha": 3}
    run = finetune({"train": "lora", "lora": lora}, diffusion__trainer__channels_last=channels_last)
    with_lora = plain(base)
    with_lora.load_lora_weights(run.lora)
    merged = StableDiffusionPipeline.from_pretrained(run.pipeline)
    np.testing.assert_allclose(draw(merged), draw(with_lora), atol=1e-4)
    assert merged.unet.state_dict().keys() == plain(base).unet.state_dict().keys()
    exported = export_checkpoint(run.path, checkpoint="2", output_dir=tmp_path / "export")
    assert_same_weights(exported, run.pipeline)


def test_a_checkpoint_holds_what_is_trained_and_goes_on_bit_for_bit(finetune, tmp_path):
    stage = {"train": "lora", "ema": {"decay": 0.9}}
    run = finetune(stage)
    file = run.lora / "pytorch_lora_weights.safetensors"
    finished = load_file(file)
    checkpoints = run.checkpoints("diffusion")
    state = torch.load(checkpoints / "step=1.ckpt", weights_only=True)
    for weights in (state["state_dict"], state["current_model_state"]):
        assert all("lora" in name for name in weights)
    # As if the run had been killed after its first step.
    (checkpoints / "step=2.ckpt").unlink()
    facts = json.loads((run.path / "state.json").read_text())
    write_json(run.path / "state.json", {"autoencoder": facts["autoencoder"]})
    file.unlink()
    finetune(stage)
    again = load_file(file)
    assert again.keys() == finished.keys()
    assert all(torch.equal(again[name], finished[name]) for name in finished)


def test_a_lora_on_a_decoder_of_its_own(finetune, base):
    run = finetune({"train": "lora"}, autoencoder="decoder")
    opened, before = loading.pipeline(run.path), plain(base)
    assert {name.partition(".")[0] for name in changed(before.vae, opened.vae)} == {"decoder", "post_quant_conv"}
    assert opened.vae.config.scaling_factor == 0.18215


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_decoder_alone_keeps_layout_scaling_and_every_old_latent(make_recipe, tmp_path, layout):
    before = save_autoencoder(tmp_path / "vae", **layout)
    stage = {"from_pretrained": str(tmp_path / "vae"), "train": "decoder", "trainer": {"max_steps": 1, "batch_size": 2}}
    train_run(make_recipe(autoencoder=stage, diffusion=None, data__image_size=32))
    run = RunFolder(tmp_path / "nano")
    after = AutoencoderKL.from_pretrained(run.autoencoder)
    trained = {"decoder"} if layout is FLUX else {"decoder", "post_quant_conv"}
    assert {name.partition(".")[0] for name in changed(before, after)} == trained
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "vae", run.autoencoder))
    for config in (old, new):
        del config["force_upcast"]  # it is measured
        config.pop("_name_or_path", None)
    assert new == old


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_all_of_it_is_measured_folded_and_said(make_recipe, tmp_path, layout, capsys):
    save_autoencoder(tmp_path / "vae", **layout)
    stage = {"from_pretrained": str(tmp_path / "vae"), "trainer": {"max_steps": 1, "batch_size": 2}}
    train_run(make_recipe(autoencoder=stage, diffusion=None, data__image_size=32))
    after = AutoencoderKL.from_pretrained(tmp_path / "nano" / "autoencoder")
    assert (after.config.scaling_factor, after.config.shift_factor, after.config.latents_mean) == (1.0, None, None)
    said = " ".join(capsys.readouterr().err.split())
    assert f"its latents are no longer those of {tmp_path / 'vae'}: latents and UNets made with that do not fit" in said


def test_a_run_is_a_start_point_by_its_folder(make_recipe, trained_run, tmp_path):
    source = str(trained_run.path)
    first = {"from_pretrained": source, "train": "nothing"}
    second = {"from_pretrained": source, "train": "attention", "trainer": {"max_steps": 1, "batch_size": 2}}
    train_run(make_recipe(autoencoder=first, diffusion=second))
    before, after = (
        StableDiffusionPipeline.from_pretrained(x / "pipeline") for x in (trained_run.path, tmp_path / "nano")
    )
    assert after.scheduler.config.prediction_type == "flow_prediction"
    assert changed(before.unet, after.unet)
    assert not changed(before.text_encoder, after.text_encoder)


@pytest.mark.parametrize(
    ("scheduler", "prediction_type"),
    [(DDPMScheduler(prediction_type="v_prediction"), "v_prediction"), (EulerDiscreteScheduler(), "epsilon")],
)
def test_the_objective_is_what_the_scheduler_says(make_recipe, tmp_path, scheduler, prediction_type):
    from vae_ldm.assembly import build_autoencoder, build_diffusion, build_objective

    folder = str(save_stable_diffusion(tmp_path / "sd", scheduler))
    stages: dict[str, Any] = {
        "autoencoder": {"from_pretrained": folder, "train": "nothing"},
        "diffusion": {"from_pretrained": folder, "train": "unet"},
    }
    recipe = make_recipe(data__image_size=32, **stages)
    diffusion = build_diffusion(recipe, build_autoencoder(recipe, image_channels=3), [])
    assert type(diffusion.scheduler) is type(scheduler)
    objective = build_objective(recipe, diffusion.scheduler)
    assert objective.prediction_type == prediction_type
    latents, noise = torch.randn(2, 1, 4, 2, 2)
    timesteps = torch.tensor([400])
    expected = DDPMScheduler.from_config(scheduler.config).add_noise(latents, noise, timesteps)
    torch.testing.assert_close(objective.corrupt(latents, noise, timesteps), expected)


def test_a_shift_that_the_pretrained_scheduler_does_not_know_is_refused(make_recipe, tmp_path):
    folder = str(save_stable_diffusion(tmp_path / "sd", DDPMScheduler()))
    recipe = make_recipe(
        data__image_size=32,
        autoencoder={"from_pretrained": folder, "train": "nothing"},
        diffusion={"from_pretrained": folder, "train": "unet", "flow_shift": 3.0},
    )
    with pytest.raises(WeightsError, match=r"its DDPMScheduler has no flow_shift; leave diffusion\.flow_shift out$"):
        build_diffusion(recipe, build_autoencoder(recipe, image_channels=3), ["a tin"])


@pytest.mark.parametrize(("asked", "shift"), [(None, 2.0), (4.0, 4.0)])
def test_a_pretrained_flow_is_shifted_as_its_scheduler_or_the_recipe_says(make_recipe, tmp_path, asked, shift):
    folder = str(save_stable_diffusion(tmp_path / "sd", new_scheduler("flow_prediction", flow_shift=2.0)))
    recipe = make_recipe(
        data__image_size=32,
        autoencoder={"from_pretrained": folder, "train": "nothing"},
        diffusion={"from_pretrained": folder, "train": "unet", "flow_shift": asked},
    )
    diffusion = build_diffusion(recipe, build_autoencoder(recipe, image_channels=3), ["a tin"])
    assert diffusion.scheduler.config.flow_shift == shift
    assert build_lit_latent_diffusion(recipe, diffusion).objective.flow_shift == shift


@pytest.mark.parametrize(
    ("scheduler", "settings", "message"),
    [
        (
            DDPMScheduler(num_train_timesteps=50),
            {"evaluation__num_inference_steps": 51},
            "num_inference_steps: must be at most the 50 timesteps that .* was trained on, not 51",
        ),
        (
            DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
            {"diffusion__timestep_sampling": "logit_normal"},
            "logit_normal never draws the last timestep",
        ),
        (
            DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
            {"diffusion__min_snr_gamma": 5.0},
            "min_snr_gamma weighs the last timestep with 0",
        ),
    ],
)
def test_what_a_pretrained_scheduler_cannot_do_is_refused_before_training(
    make_recipe, tmp_path, scheduler, settings, message
):
    from vae_ldm.assembly import build_autoencoder, build_diffusion, build_lit_latent_diffusion

    folder = str(save_stable_diffusion(tmp_path / "sd", scheduler))
    stages: dict[str, Any] = {
        "autoencoder": {"from_pretrained": folder, "train": "nothing"},
        "diffusion": {"from_pretrained": folder, "train": "unet"},
    }
    for recipe, is_refused in (
        (make_recipe(data__image_size=32, **stages), False),
        (make_recipe(data__image_size=32, **stages, **settings), True),
    ):
        diffusion = build_diffusion(recipe, build_autoencoder(recipe, image_channels=3), [])
        if is_refused:
            with pytest.raises(VaeLdmError, match=message):
                build_lit_latent_diffusion(recipe, diffusion)
        else:
            build_lit_latent_diffusion(recipe, diffusion)


@pytest.mark.parametrize("part", ["unet", "attention", "lora"])
def test_a_unet_that_pools_the_prompt_as_our_nano_does_is_a_start_point(finetune, tmp_path, part):
    source = save_stable_diffusion(tmp_path / "pooled", addition_embed_type="text", addition_embed_type_num_heads=2)
    run = finetune({"from_pretrained": str(source), "train": part}, autoencoder="nothing")
    assert run.finished("diffusion") is not None
    assert loading.pipeline(run.path).unet.config.addition_embed_type == "text"


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        ({"in_channels": 9}, "takes 9 channels and gives 4, the autoencoder has 4"),
        ({"cross_attention_dim": 48}, "attends to 48 numbers a token, its text encoder gives 32"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 8,
            },
            "wants more than a prompt",
        ),
    ],
)
def test_a_unet_that_does_not_fit_is_refused_before_training(make_recipe, tmp_path, unet, message):
    source = str(save_stable_diffusion(tmp_path / "other", **unet))
    stages = {"autoencoder": {"from_pretrained": source, "train": "nothing"}, "diffusion": {"from_pretrained": source}}
    with pytest.raises(WeightsError, match=message):
        train_run(make_recipe(data__image_size=32, **stages), dry_run=True)


def test_target_modules_that_are_not_there_are_named_with_those_that_are(finetune):
    with pytest.raises(WeightsError, match=r"has no layers to_x that can be updated; it has .*to_q") as caught:
        finetune({"train": "lora", "lora": {"target_modules": ["to_x"]}})
    assert "\n" not in str(caught.value)


def test_a_scheduler_that_nothing_can_be_trained_for_is_refused(finetune, base):
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(VaeLdmError, match="PNDMScheduler that predicts sample cannot be trained for"):
        finetune({"train": "unet"})
    config.write_text(json.dumps({"_class_name": "NoScheduler"}))
    with pytest.raises(WeightsError, match="diffusers has no scheduler NoScheduler"):
        finetune({"train": "unet"})


def test_a_lora_without_its_base_is_one_line(finetune, base, tmp_path):
    run = finetune({"train": "lora"})
    base.rename(tmp_path / "moved")
    with pytest.raises(WeightsError, match=f"^{base}: no such folder"):
        loading.pipeline(run.path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoencoder": {}}, "diffusion.from_pretrained: its UNet knows the latents of its own autoencoder only"),
        ({"autoencoder": {"from_pretrained": "x"}}, "its UNet would no longer fit the latents"),
        ({"diffusion": {"from_pretrained": "x", "size": "tiny"}}, "diffusion.size: comes from the pretrained weights"),
        ({"diffusion": {"train": "lora"}}, "diffusion.train: lora needs diffusion.from_pretrained"),
        ({"diffusion": {"revision": "x"}}, "diffusion.revision: means nothing without diffusion.from_pretrained"),
        (
            {"hub": {"repository": "a/b"}, "diffusion": {"from_pretrained": "x", "train": "lora"}},
            "hub: a push sends a whole pipeline; set diffusion.lora.merge: true",
        ),
        ({"diffusion": {"lora": {"rank": 4}}}, "diffusion.lora: means nothing without diffusion.train: lora"),
    ],
)
def test_settings_that_cannot_work_together(settings, message):
    recipe = {
        "name": "x",
        "data": {"type": "rendered_claims"},
        "autoencoder": {"from_pretrained": "x", "train": "nothing"},
        "diffusion": {"from_pretrained": "x"},
    }
    Recipe.model_validate(recipe | {"diffusion": {"from_pretrained": "x", "min_snr_gamma": 5}})
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(recipe | settings)
