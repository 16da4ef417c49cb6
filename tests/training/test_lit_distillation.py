"""What a student learns, of a teacher of a few thousand weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from vae_ldm.assembly import build_optimizer
from vae_ldm.data.jumps import JumpDataset
from vae_ldm.data.posterior_cache import PosteriorDataset
from vae_ldm.data.sampling import Batch, Shares
from vae_ldm.data.tensor_shards import read_shards, write_shards
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.models.text_encoder import new_text_encoder, new_tokenizer, tokenize
from vae_ldm.models.unet import guidance_embedding, new_student, new_unet
from vae_ldm.pipelines.schedulers import new_scheduler
from vae_ldm.recipe import parts
from vae_ldm.training.few_steps import FewSteps
from vae_ldm.training.lit_distillation import LitDistillation
from vae_ldm.training.teacher import Teacher, draw_guidance
from vae_ldm.training.trajectories import Trajectories

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


@pytest.fixture
def trajectories(lit: LitDistillation, tmp_path: Path) -> Trajectories:
    """Of ten photos of two prompts."""

    def make(start: int, stop: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(10, 1, 4, 4, 4, generator=generator)
        return {"mean": latents[start:stop], "logvar": torch.full_like(latents[start:stop], -4)}

    write_shards(make, 10, tmp_path / "photos", name="posteriors", key="k", shard_size=10)
    prompt_ids = tokenize(new_tokenizer(PROMPTS, max_length=8), PROMPTS * 5)
    photos = PosteriorDataset(tmp_path / "photos", prompt_ids, seed=0, augment=False)
    return Trajectories(lit.teacher, lit.steps, photos, (1.0, 5.0), 0.1, 0, 4, lambda count: None)


def test_what_the_teacher_draws_follows_from_the_number_of_the_part_alone(trajectories):
    """So processes that share the parts draw what one would."""
    later = trajectories.from_noise(4, 8)
    first = trajectories.from_noise(0, 4)
    again = trajectories.from_noise(4, 8)
    for name in later:
        assert torch.equal(later[name], again[name])
    assert not torch.equal(first["samples"], later["samples"])
    assert later["samples"].shape == (4, 3, 4, 4, 4), "noise, the middle, and the picture"
    assert abs(later["samples"][:, 0].std() - 1) < 0.2


def test_what_begins_at_photos_takes_turns_through_the_levels_and_ends_at_the_next_step(trajectories):
    parts = [trajectories.from_photos(start, start + 4) for start in range(0, 16, 4)]
    assert [part["level"].unique().tolist() for part in parts] == [[1], [2], [3], [1]]
    steps, last = trajectories.steps, parts[2]
    guidance, prompts = last["guidance"], trajectories.teacher.prompts(last["prompt_ids"])
    predict = lambda x, t: trajectories.teacher.predict(x, t, prompts, guidance)  # noqa: E731
    arrived = steps.follow(predict, last["samples"][:, 0], 3, steps.last)[-1]
    torch.testing.assert_close(arrived, last["samples"][:, 1])


def test_sources_of_a_mixture_have_their_shares_of_what_the_teacher_draws(trajectories):
    """Of 2 and 8 photos with equal weights the first two give half of the prompts, as in training."""
    trajectories.shares = Shares((2, 8), (1.0, 1.0))
    rows = trajectories._begin(0, 4000, kind=0)[1]
    assert 0.47 < (rows < 2).double().mean() < 0.53
    assert rows.unique().tolist() == list(range(10))
    assert 0.22 < (rows == 1).double().mean() < 0.28
    assert torch.equal(trajectories._begin(0, 4000, kind=0)[1], rows)
    trajectories.shares = None
    assert (trajectories._begin(0, 4000, kind=0)[1] < 2).double().mean() < 0.23


def test_what_begins_at_a_photo_begins_at_its_mirror_image_half_of_the_time(trajectories):
    photos = trajectories.photos
    views = torch.stack([torch.full((10, 4, 4, 4), fill) for fill in (-9.0, 9.0)], 1)
    photos.mean, photos.std, photos.num_views, photos.augment = views, torch.zeros_like(views), 2, True
    begun = torch.cat([trajectories.from_photos(start, start + 4)["samples"][:, 0] for start in range(0, 80, 4)])
    mirrored = begun.flatten(1).mean(1) > 0
    assert 0.3 < mirrored.double().mean() < 0.7


def test_jumps_of_a_batch_lead_from_level_to_level(trajectories, tmp_path):
    kinds = {"noise": (trajectories.from_noise, 8), "begun": (trajectories.from_photos, 6)}
    for name, (make, count) in kinds.items():
        write_shards(make, count, tmp_path / name, name="trajectories", key="k", shard_size=4)
    steps = trajectories.steps
    data = JumpDataset(trajectories.photos, tmp_path / "noise", tmp_path / "begun", steps.marks, seed=0)
    assert (len(data), data.num_jumps) == (10, 8 * 2 + 6)
    seen = [data[Batch(number, np.arange(11) % 10)] for number in (0, 1)]
    both = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
    levels = sorted(zip(both["first"].tolist(), both["last"].tolist(), strict=True))
    assert set(levels) <= {(0, 2), (2, 4), (1, 2), (3, 4)}
    assert (levels.count((0, 2)), len(levels)) == (8, 22), "an epoch has each jump once"
    before = both["before"][both["first"] == 0]
    drawn = read_shards(tmp_path / "noise")["samples"][:, 0]
    assert torch.equal(before.flatten(1).sum(1).sort().values, drawn.flatten(1).sum(1).sort().values)
