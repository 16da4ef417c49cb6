"""`gradient_checkpointing` changes the memory of a step and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.run.conftest import assert_same_run
from vae_ldm.assembly import (
    build_autoencoder,
    build_diffusion,
    build_lit_autoencoder,
    build_lit_distillation,
    build_lit_latent_diffusion,
    build_student,
)
from vae_ldm.recipe import keys_free_under_way
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run
from vae_ldm.training.csv_log import read_csv_log

STAGES = ("autoencoder", "diffusion")


def bytes_kept(forward: Callable[[], Tensor]) -> int:
    """What autograd keeps of a forward pass for the backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_each_network_keeps_less_for_the_backward_pass(make_recipe):
    kept: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for checkpointed in (False, True):
        switches = {f"{stage}__trainer__gradient_checkpointing": checkpointed for stage in STAGES}
        recipe = make_recipe(autoencoder__loss={}, **switches)
        autoencoder = build_lit_autoencoder(recipe, build_autoencoder(recipe, image_channels=3)).autoencoder
        diffusion = build_diffusion(recipe, autoencoder, ["a tin"])
        unet = build_lit_latent_diffusion(recipe, diffusion).unet
        images, latents, prompts = torch.rand(2, 3, 32, 32), torch.rand(2, 4, 8, 8), torch.rand(2, 4, 32)
        steps = torch.zeros(2)
        kept["autoencoder"].append(bytes_kept(lambda: autoencoder(images).sample))  # noqa: B023
        kept["diffusion"].append(bytes_kept(lambda: unet(latents, steps, prompts).sample))  # noqa: B023
    for stage, (all_of_it, blocks) in kept.items():
        assert blocks < 0.7 * all_of_it, stage


def test_both_stages_end_in_the_same_curves_and_weights(make_recipe, tmp_path):
    """With a discriminator of adaptive weight, crops, dropout, accumulation and an average."""
    runs = []
    for name in ("kept", "again"):
        switches = {f"{stage}__trainer__gradient_checkpointing": name == "again" for stage in STAGES}
        train_run(make_recipe(tmp_path / name, autoencoder__crop_size=8, diffusion__dropout=0.2, **switches))
        runs.append(RunFolder(tmp_path / name / "nano"))
    assert_same_run(*runs)


def test_a_pretrained_decoder_and_a_lora_have_the_same_curves(make_recipe, tmp_path, trained_run):
    curves = []
    for name in ("kept", "again"):
        trainer = {"max_steps": 2, "batch_size": 4, "log_every_n_steps": 1, "precision": "32-true"}
        trainer["gradient_checkpointing"] = name == "again"
        source = {"from_pretrained": str(trained_run.path), "trainer": trainer}
        stages = {"autoencoder": source | {"train": "decoder"}, "diffusion": source | {"train": "lora"}}
        train_run(make_recipe(tmp_path / name, **stages))
        run = RunFolder(tmp_path / name / "nano")
        curves.append([read_csv_log(run.log(stage)) for stage in STAGES])
    assert len(curves[0][0]) >= 2
    assert curves[0] == curves[1]


def test_a_student_keeps_less_for_the_backward_pass(make_recipe):
    kept = []
    for checkpointed in (False, True):
        recipe = make_recipe(diffusion__distill={"trainer": {"gradient_checkpointing": checkpointed}})
        autoencoder = build_autoencoder(recipe, image_channels=3)
        teacher = build_diffusion(recipe, autoencoder, ["a tin"])
        module = build_lit_distillation(recipe, teacher, build_student(recipe, teacher))
        prompt_ids = module.teacher.empty_prompt_ids.expand(2, -1)
        batch = {"mean": torch.rand(2, 4, 8, 8), "std": torch.rand(2, 4, 8, 8), "prompt_ids": prompt_ids}
        kept.append(bytes_kept(lambda: module.guidance_loss(batch)))  # noqa: B023
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("stage", [*STAGES, "diffusion.distill"])
def test_it_may_be_changed_under_way(stage):
    assert f"{stage}.trainer.gradient_checkpointing" in keys_free_under_way()
