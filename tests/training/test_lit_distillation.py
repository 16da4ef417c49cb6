"""What a student learns, of a teacher of a few thousand weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from vae_ldm.assembly import build_optimizer
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.losses.few_steps import FewSteps
from vae_ldm.models.text_encoder import new_text_encoder, new_tokenizer, tokenize
from vae_ldm.models.unet import guidance_embedding, new_student, new_unet
from vae_ldm.pipelines.schedulers import new_scheduler
from vae_ldm.recipe import parts
from vae_ldm.training.lit_distillation import LitDistillation
from vae_ldm.training.teacher import Teacher, draw_guidance

PROMPTS = ["a red tin", "a blue tin"]


@pytest.fixture
def lit(nano_networks: None) -> LitDistillation:
    torch.manual_seed(0)
    tokenizer = new_tokenizer(PROMPTS, max_length=8)
    encoder = new_text_encoder(tokenizer, hidden_size=32, num_layers=1, num_heads=2)
    unet = new_unet("tiny", latent_channels=4, latent_size=(4, 4), cross_attention_dim=32)
    teacher = Teacher(unet, encoder, tokenize(tokenizer, [""]))
    scheduler = new_scheduler("flow_prediction")
    return LitDistillation(
        new_student(unet),
        teacher,
        FewSteps(scheduler, num_steps=2, num_teacher_steps=4),
        objective=DenoisingObjective("flow_prediction"),
        guidance_scale=(1.0, 5.0),
        guidance_steps=1,
        caption_dropout=0.0,
        optimizer=build_optimizer(parts.AdamW(learning_rate=3e-3, lr_scheduler="constant", warmup_steps=0)),
        max_steps=10,
        log_every_n_steps=1,
    )


@pytest.fixture
def batch(lit: LitDistillation) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(8, 4, 4, 4, generator=generator)
    prompt_ids = tokenize(new_tokenizer(PROMPTS, max_length=8), PROMPTS * 4)
    guidance = torch.linspace(1, 5, 8)
    prompts = lit.teacher.prompts(prompt_ids)
    samples = lit.steps.follow(lambda x, t: lit.teacher.predict(x, t, prompts, guidance), noise, 0, lit.steps.last)
    return {
        "mean": torch.randn(8, 4, 4, 4, generator=generator),
        "std": torch.full((8, 4, 4, 4), 0.1),
        "prompt_ids": prompt_ids,
        "index": torch.arange(8),
        "before": noise,
        "after": samples[lit.steps.marks[1]],
        "first": torch.zeros(8, dtype=torch.int64),
        "last": torch.full((8,), lit.steps.marks[1]),
        "jump_prompt_ids": prompt_ids,
        "guidance": guidance,
    }


def test_a_student_begins_as_its_teacher_without_guidance(lit, batch):
    prompts = lit.teacher.prompts(batch["prompt_ids"])
    timesteps = torch.full((8,), 500)
    expected = lit.teacher.predict(batch["mean"], timesteps, prompts, torch.ones(8))
    for scale in (1.0, 3.0):
        found = lit._predict(batch["mean"], timesteps, prompts, torch.full((8,), scale))
        assert torch.equal(found, expected)


def test_it_is_told_the_scale_as_the_pipeline_tells_it(lit):
    pipeline = object.__new__(StableDiffusionPipeline)
    dim = lit.unet.config.time_cond_proj_dim
    as_called = pipeline.get_guidance_scale_embedding(torch.tensor(3.7 - 1).repeat(2), embedding_dim=dim)
    assert torch.equal(guidance_embedding(lit.unet, torch.tensor([3.7, 3.7])), as_called)


def test_the_teacher_guides_as_the_pipeline_does(lit, batch):
    teacher, sample, timestep = lit.teacher, batch["mean"], torch.tensor(300)
    prompts = teacher.prompts(batch["prompt_ids"])
    nothing = teacher.prompts(teacher.empty_prompt_ids).expand_as(prompts)
    with torch.no_grad():
        guided = teacher.unet(sample, timestep, prompts).sample
        unguided = teacher.unet(sample, timestep, nothing).sample
    expected = unguided + 4 * (guided - unguided)
    found = teacher.predict(sample, timestep, prompts, torch.full((8,), 4.0))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    mixed = teacher.predict(sample, timestep, prompts, torch.tensor([0.5, *[4.0] * 7]))
    torch.testing.assert_close(mixed[0], guided[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mixed[1:], expected[1:], rtol=1e-3, atol=1e-3)


def test_scales_are_drawn_over_the_span_and_at_its_ends():
    kept, dropped = torch.zeros(4000, dtype=torch.bool), torch.ones(4000, dtype=torch.bool)
    scales = draw_guidance((2.0, 5.0), kept, torch.Generator().manual_seed(0))
    assert scales.min() == 2
    assert scales.max() == 5
    assert (scales == 2).float().mean().item() == pytest.approx(0.05 / 1.1, abs=0.01)
    assert scales.mean().item() == pytest.approx(3.5, abs=0.05)
    without = draw_guidance((2.0, 5.0), dropped, torch.Generator().manual_seed(0))
    assert (without == 1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (draw_guidance((1.0, 1.0), kept) == 1).all()


def trained(lit: LitDistillation, batch: dict[str, Tensor], loss: str, steps: int) -> tuple[float, float]:
    """The loss before and after training on one batch."""
    optimizer = torch.optim.AdamW([each for each in lit.parameters() if each.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        value = getattr(lit, loss)(batch).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("loss", ["guidance_loss", "jump_loss"])
def test_a_student_learns_what_its_teacher_does_and_the_teacher_stays(lit, batch, loss):
    before = [each.clone() for each in lit.teacher.parameters()]
    first, last = trained(lit, batch, loss, 60)
    assert last < first / 4
    assert all(torch.equal(old, new) for old, new in zip(before, lit.teacher.parameters(), strict=True))
    assert lit.unet.time_embedding.cond_proj.weight.abs().max() > 0, "it heeds the scale"


def test_the_part_of_training_follows_from_the_step(lit, batch, monkeypatch):
    asked: list[str] = []
    for name in ("guidance_loss", "jump_loss"):
        monkeypatch.setattr(lit, name, lambda _batch, name=name: asked.append(name) or torch.zeros(8))
    monkeypatch.setattr(lit, "log", lambda *_, **__: None)
    for step in (0, 1):
        lit._trainer = SimpleNamespace(global_step=step)
        lit.training_step(batch, step)
    assert asked == ["guidance_loss", "jump_loss"]


def test_validation_is_the_distance_of_what_both_draw_and_does_not_depend_on_the_batch(lit, batch):
    lit.unet.eval()
    values = lit.validation_values(batch)["val/distance"]
    assert (values > 0).all()
    part: dict[str, Any] = {name: value[5:] for name, value in batch.items()}
    torch.testing.assert_close(lit.validation_values(part)["val/distance"], values[5:])
    lit._drawn_by_teacher.clear()
    torch.testing.assert_close(lit.validation_values(part)["val/distance"], values[5:])
