"""benchmarks/diffusers_way.py: both sides train and draw, finished cells stay, and the other side is DDPM's epsilon."""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import EMAModel

from vae_ldm.assembly import DiffusionParts
from vae_ldm.models.text_encoder import new_text_encoder, new_tokenizer, tokenize
from vae_ldm.models.unet import new_unet
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.run import diffusion_stage

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import diffusers_example
        import diffusers_table
        import diffusers_way
        import quality_per_minute

        yield SimpleNamespace(
            way=diffusers_way, example=diffusers_example, table=diffusers_table, quality=quality_per_minute
        )
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def small(modules, monkeypatch, tmp_path, nano_networks, tiny_backbone) -> SimpleNamespace:
    """Arguments of a comparison that takes seconds."""
    way = modules.way
    few = (
        "data.num_train=52", "data.num_validation=13", "autoencoder.trainer.max_steps=2", "diffusion.size=tiny",
        "diffusion.trainer.batch_size=4", "evaluation.num_inference_steps=2",
        f"evaluation.features={{type: transformers, from_pretrained: {tiny_backbone}}}",
    )  # fmt: skip
    monkeypatch.setitem(way.PACKS, "small", way.Pack("recipes/claims-32.yaml", few))
    monkeypatch.setattr(way, "LEARNING_RATES", (1e-4, 1e-3))
    monkeypatch.setattr(way, "GUIDANCE_SCALES", (1.0, 2.0))
    monkeypatch.setattr(way, "NUM_CHOICE_SAMPLES", 16)
    monkeypatch.setattr(modules.example, "NUM_INFERENCE_STEPS", 3)
    for module in (way, modules.quality):
        monkeypatch.setattr(module, "NUM_TIMED_STEPS", 7)
    return SimpleNamespace(
        pack="small", seconds=0.1, seeds=[1], num_samples=26, autoencoder="starter", photos=tmp_path,
        folder=tmp_path / "folder", table=tmp_path / "cells.jsonl",
    )  # fmt: skip


@pytest.fixture
def started(modules, monkeypatch) -> dict[str, list[str]]:
    """The weights that each training of each side begins with, as digests."""
    digests: dict[str, list[str]] = {"ours": [], "diffusers": []}
    usual, others = diffusion_stage.build_lit_latent_diffusion, modules.example.train

    def ours(recipe, diffusion):
        digests["ours"].append(weights_digest(diffusion.unet) + weights_digest(diffusion.text_encoder))
        return usual(recipe, diffusion)

    def diffusers(diffusion, *args, **settings):
        digests["diffusers"].append(weights_digest(diffusion.unet) + weights_digest(diffusion.text_encoder))
        return others(diffusion, *args, **settings)

    monkeypatch.setattr(diffusion_stage, "build_lit_latent_diffusion", ours)
    monkeypatch.setattr(modules.example, "train", diffusers)
    return digests


@pytest.mark.slow
def test_both_sides_train_and_draw_and_go_on_where_they_were_stopped(modules, small, started, monkeypatch):
    draws = []

    def sample_images(pipeline, prompts, **settings):
        draws.append(settings)
        if len(draws) == 4:
            raise KeyboardInterrupt
        return usual(pipeline, prompts, **settings)

    usual = modules.way.sample_images
    monkeypatch.setattr(modules.way, "sample_images", sample_images)
    with pytest.raises(KeyboardInterrupt):
        modules.way.run(small)
    first = small.table.read_text()
    assert [json.loads(line)["side"] for line in first.splitlines()] == ["ours", "ours", "diffusers"]
    modules.way.run(small)
    assert small.table.read_text().startswith(first)
    # Two trainings a model, the first of which is timed: of ours two seeds, of diffusers another learning rate as well.
    assert [len(started[side]) for side in ("ours", "diffusers")] == [4, 6]
    assert set(started["ours"]) == set(started["diffusers"])
    assert len(set(started["ours"])) == 2

    rows = modules.table.read_table(small.table)
    choices = [row for row in rows if row.get("purpose") == "choice"]
    results = {row["side"]: row for row in rows if row.get("purpose") == "result"}
    assert (len(rows), len(choices), len(results)) == (9, 6, 2)
    for side, row in results.items():
        best = min((one for one in choices if one["side"] == side), key=lambda one: one["fd"])
        assert (row["guidance_scale"], row["learning_rate"]) == (best["guidance_scale"], best["learning_rate"])
        assert row["num_compared"] == 26
        assert row["seed"] == 1
        assert row["steps"] >= 1
        assert {"fd", "kid", "precision", "recall", "agreement", "cpu_seconds"} <= row.keys()
    assert (results["ours"]["inference_steps"], results["diffusers"]["inference_steps"]) == (2, 3)
    assert rows[-1]["side"] == "reconstructions"
    assert rows[-1]["fd"] < 0.5 * min(row["fd"] for row in results.values())
    of_choice = {seed for one in draws[:-2] for seed in one["seeds"]}
    assert of_choice == set(range(1_000_000, 1_000_016))
    assert [list(one["seeds"]) for one in draws[-2:]] == [list(range(26))] * 2
    assert {path.name for path in small.folder.glob("scratch-*")} == set()
    assert len(list(small.folder.glob("*.png"))) == 2

    before = small.table.read_text()
    modules.way.run(small)
    assert small.table.read_text() == before
    assert (len(draws), len(started["ours"])) == (9, 4)
    folders = [next((small.folder / "trained").glob(f"{side}-*-1")) for side in ("ours", "diffusers")]
    one, other = (StableDiffusionPipeline.from_pretrained(folder, safety_checker=None) for folder in folders)
    assert weights_digest(one.vae) == weights_digest(other.vae)
    assert {**one.unet.config, "_name_or_path": ""} == {**other.unet.config, "_name_or_path": ""}
    assert other.scheduler.config.prediction_type == "epsilon"
    assert type(other.scheduler).__name__ == "DDIMScheduler"


def test_without_an_autoencoder_the_recipes_own_is_trained_once(modules, small):
    small.folder.mkdir()
    run = Path(modules.way.own_autoencoder(small.folder, small.photos, "small"))
    weights = run / "autoencoder" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert modules.way.own_autoencoder(small.folder, small.photos, "small") == str(run)
    assert weights.stat().st_mtime_ns == before


def test_the_target_is_the_noise_of_ddpm(modules):
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon, betas linear from 1e-4 to 0.02 (Ho 2020, eq. 4)."""
    torch.manual_seed(0)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    latents = torch.randn(64, 4, 8, 8)
    noisy, timesteps, target = modules.example.noised(modules.example.training_scheduler(), latents)
    at = torch.from_numpy(alpha_bar[timesteps]).float().view(-1, 1, 1, 1)
    torch.testing.assert_close((noisy - at.sqrt() * latents) / (1 - at).sqrt(), target, rtol=1e-3, atol=1e-3)
    assert target.std().item() == pytest.approx(1, abs=0.02)
    assert len(timesteps.unique()) > 50


def test_ddim_gets_latents_back_that_lie_outside_pixels_range(modules):
    """From a network that knows the noise exactly; with diffusers' own default, latents are cut to [-1, 1]."""
    torch.manual_seed(0)
    scheduler, latents = modules.example.sampling_scheduler(), 3 * torch.randn(2, 4, 8, 8)
    scheduler.set_timesteps(modules.example.NUM_INFERENCE_STEPS)
    assert len(scheduler.timesteps) == 50
    noisy = torch.randn_like(latents)
    for timestep in scheduler.timesteps:
        at = scheduler.alphas_cumprod[timestep]
        noise = (noisy - at.sqrt() * latents) / (1 - at).sqrt()
        noisy = scheduler.step(noise, timestep, noisy).prev_sample
    torch.testing.assert_close(noisy, latents, rtol=0, atol=0.05)


@pytest.fixture
def diffusion(nano_networks) -> DiffusionParts:
    torch.manual_seed(0)
    tokenizer = new_tokenizer(["a photo of a tin"], max_length=8)
    text_encoder = new_text_encoder(tokenizer, hidden_size=16, num_layers=1, num_heads=2)
    unet = new_unet("tiny", latent_channels=4, latent_size=(8, 8), cross_attention_dim=16)
    return DiffusionParts(tokenizer, text_encoder, unet, None)


def test_the_average_of_unet_and_text_encoder_is_what_is_left(modules, diffusion, monkeypatch):
    prompts = tokenize(diffusion.tokenizer, ["a photo of a tin"] * 4)
    batch = {"mean": torch.zeros(4, 4, 8, 8), "std": torch.ones(4, 4, 8, 8), "prompt_ids": prompts}
    begun = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts_of(diffusion)]

    def after(max_steps: int) -> str:
        for part, weights in zip(parts_of(diffusion), begun, strict=True):
            part.load_state_dict(weights)
        torch.manual_seed(1)
        clock = modules.quality.CpuClock()
        settings = {"learning_rate": 1e-2, "caption_dropout": 0.1, "clock": clock}
        modules.example.train(diffusion, [batch] * 9, max_steps=max_steps, **settings)
        assert clock.steps == max_steps
        return "".join(map(weights_digest, parts_of(diffusion)))

    assert after(1) != after(3)
    # An average that never leaves the weights after the first step.
    monkeypatch.setattr(modules.example, "EMAModel", partial(EMAModel, min_decay=1.0))
    assert after(1) == after(3)


def parts_of(diffusion: DiffusionParts) -> tuple[torch.nn.Module, torch.nn.Module]:
    return diffusion.unet, diffusion.text_encoder


def test_markdown_has_means_the_ratio_and_the_choices(modules):
    shared = {"pack": "claims-32", "autoencoder": "0a1b", "num_samples": 2000}
    results = [
        {**shared, "purpose": "result", "seconds": 60.0, "side": side, "seed": seed, "guidance_scale": 2.0, "fd": fd}
        for side, values in (("ours", (10.0, 20.0)), ("diffusers", (40.0, 60.0)))
        for seed, fd in enumerate(values)
    ]
    choice = {**results[0], "purpose": "choice", "num_samples": 256, "learning_rate": 1e-4, "fd": 77.0}
    floor = {**shared, "side": "reconstructions", "fd": 5.0}
    lines = modules.table.in_markdown([*results, choice, floor]).splitlines()
    assert "| diffusers | mean |  | 50 |" in lines
    assert "| ours | mean |  | 15 |" in lines
    assert "| reconstructions |  |  | 5 |" in lines
    assert "Mean FD of ours over mean FD of diffusers: 0.300 (0.250 to 0.333 over seeds 0, 1)." in lines
    assert lines[-1] == "| claims-32 | 0a1b | 60 | ours | 0.0001 | 77 |"


def test_a_missing_recipe_is_one_line(modules, monkeypatch, tmp_path):
    monkeypatch.setitem(modules.way.PACKS, "claims-64", modules.way.Pack("recipes/not-there.yaml"))
    monkeypatch.setattr(sys, "argv", ["diffusers_way.py", "run", "claims-64", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"error: .*not-there\.yaml: no such file"):
        modules.way.main()
