import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

from vae_ldm.assembly import build_optimizer
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.models.text_encoder import new_text_encoder, new_tokenizer, tokenize
from vae_ldm.models.unet import new_unet
from vae_ldm.recipe import parts
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion, other_prompts

PROMPTS = ["a red tin", "a blue tin"]


@pytest.fixture
def lit(nano_networks: None) -> Callable[..., LitLatentDiffusion]:
    """`lit(caption_dropout=1.0)`: a tiny UNet and text encoder wrapped for training."""

    def wrap(prediction_type: str = "flow_prediction", **settings: Any) -> LitLatentDiffusion:
        torch.manual_seed(0)
        tokenizer = new_tokenizer(PROMPTS, max_length=8)
        text_encoder = new_text_encoder(tokenizer, hidden_size=32, num_layers=1, num_heads=2)
        unet = new_unet("tiny", latent_channels=4, latent_size=(4, 4), cross_attention_dim=32)
        defaults: dict[str, Any] = {
            "objective": DenoisingObjective(prediction_type, "uniform"),  # type: ignore[arg-type]
            "empty_prompt_ids": tokenize(tokenizer, [""]),
            "optimizer": build_optimizer(parts.AdamW(learning_rate=2e-3, lr_scheduler="constant", warmup_steps=0)),
            "max_steps": 10,
            "caption_dropout": 0.1,
            "word_dropout": 0.0,
            "unknown_id": tokenizer.unk_token_id,
            "log_every_n_steps": 1,
        }
        return LitLatentDiffusion(unet, text_encoder, **defaults | settings)

    return wrap


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Latents of one value a prompt, so that only a network that reads the prompt can tell them apart."""
    tokenizer = new_tokenizer(PROMPTS, max_length=8)
    mean = torch.tensor([1.0, -1.0]).repeat(8).view(16, 1, 1, 1).expand(16, 4, 4, 4).clone()
    prompt_ids = tokenize(tokenizer, PROMPTS * 8)
    return {
        "mean": mean,
        "std": torch.full_like(mean, 0.1),
        "prompt_ids": prompt_ids,
        "index": torch.arange(len(prompt_ids)),
    }


def weights(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def loss_at(module: LitLatentDiffusion, batch: dict[str, Tensor], prompt_ids: Tensor) -> float:
    with torch.no_grad():
        return module.denoising_loss(batch, prompt_ids, generator=torch.Generator().manual_seed(0)).mean().item()


def prompts_seen(module: LitLatentDiffusion) -> list[Tensor]:
    """The token ids of every later call of the text encoder."""
    seen: list[Tensor] = []
    module.text_encoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    return seen


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_caption_dropout_of_none_and_of_all(lit, batch, fit, share):
    module = lit(caption_dropout=share)
    seen = prompts_seen(module)
    fit(module, [batch], max_steps=2)
    expected = module.empty_prompt_ids.expand(16, -1) if share else batch["prompt_ids"]
    assert len(seen) == 2
    assert all(torch.equal(ids, expected) for ids in seen)


def test_caption_dropout_takes_its_share_of_whole_prompts(lit, batch, fit):
    module = lit(caption_dropout=0.25)
    seen = prompts_seen(module)
    fit(module, [batch], max_steps=20)
    dropped = torch.stack([(ids == module.empty_prompt_ids).all(1) for ids in seen])
    kept = torch.stack([(ids == batch["prompt_ids"]).all(1) for ids in seen])
    assert torch.equal(dropped, ~kept)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.08)


def test_validation_drops_no_caption_and_gives_the_same_loss_each_time(lit, batch, fit):
    module = lit(caption_dropout=1.0)
    settings: dict[str, Any] = {"val_check_interval": 1, "check_val_every_n_epoch": None, "max_steps": 1}
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        trainer = fit(module, [batch], validation=[batch, batch], **settings)
        losses.append(trainer.callback_metrics["val/loss"].item())
    assert losses[0] == losses[1]
    seen = prompts_seen(module)
    fit(module, [batch], validation=[batch], **settings)
    assert torch.equal(seen[-1], batch["prompt_ids"])


def test_validation_loss_does_not_depend_on_how_pictures_are_shared_out(lit, batch, fit):
    module = lit()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    settings: dict[str, Any] = {"val_check_interval": 1, "check_val_every_n_epoch": None, "max_steps": 1}
    losses = []
    for sizes in ([16], [5, 11], [11, 5]):
        rows = torch.arange(16).split(sizes)
        validation = [{name: values[part] for name, values in batch.items()} for part in reversed(rows)]
        trainer = fit(module, [batch], validation=validation, **settings)
        losses.append(trainer.callback_metrics["val/loss"].item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_the_loss_is_the_direct_computation(lit, batch):
    module = lit()
    loss = module.denoising_loss(batch, batch["prompt_ids"], generator=torch.Generator().manual_seed(4))

    generator = torch.Generator().manual_seed(4)
    latents = batch["mean"] + batch["std"] * torch.randn(batch["mean"].shape, generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = 1000 * torch.rand(16, generator=generator)
    sigmas = timesteps / 1000
    mixed = (1 - sigmas.view(-1, 1, 1, 1)) * latents + sigmas.view(-1, 1, 1, 1) * noise
    states = module.text_encoder(batch["prompt_ids"]).last_hidden_state
    velocity = module.unet(mixed, timesteps, encoder_hidden_states=states).sample
    expected = (velocity - (noise - latents)).square().flatten(1).mean(1)
    # At 1x1 the tiny UNet's groups hold two values, and where they nearly agree normalising enlarges rounding.
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    assert loss.shape == (16,)


def test_latents_are_drawn_anew_from_the_posterior(lit, batch):
    module = lit()
    module.objective.sample_timesteps = lambda n, **_: torch.zeros(n)  # no noise: the UNet sees the latents
    seen: list[Tensor] = []
    module.unet.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for _ in range(2):
        module.denoising_loss(batch, batch["prompt_ids"])
    assert not torch.equal(seen[0], seen[1])
    for latents in seen:
        torch.testing.assert_close((latents - batch["mean"]).std().item(), 0.1, atol=0.02, rtol=0)


@pytest.mark.parametrize(("frozen", "learning"), [(True, {"unet"}), (False, {"unet", "text_encoder"})])
def test_all_but_a_frozen_text_encoder_learns(lit, batch, fit, frozen, learning):
    module = lit()
    module.text_encoder.requires_grad_(not frozen)
    before = weights(module)
    fit(module, [batch], max_steps=2)
    after = module.state_dict()
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == learning


@pytest.mark.parametrize("prediction_type", ["flow_prediction", "epsilon", "v_prediction"])
def test_the_loss_falls(lit, batch, fit, prediction_type):
    module = lit(prediction_type, caption_dropout=0.0)

    before = loss_at(module, batch, batch["prompt_ids"])
    fit(module, [batch], max_steps=25, gradient_clip_val=1.0)
    assert loss_at(module, batch, batch["prompt_ids"]) < 0.8 * before


def test_the_prompt_is_used(lit, batch, fit):
    module = lit(caption_dropout=0.0)
    # Noise alone, so that nothing but the prompt says which latents to predict.
    module.objective.timesteps_at = lambda quantiles: torch.full_like(quantiles, 999.0)
    fit(module, [batch], max_steps=40, gradient_clip_val=1.0)
    wrong = loss_at(module, batch, batch["prompt_ids"].flip(0))
    assert loss_at(module, batch, batch["prompt_ids"]) < 0.5 * wrong


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradient_clipping_acts(lit, batch, fit, precision):
    norms = []

    class NoteNorm(Callback):
        def on_train_batch_end(self, _trainer: Any, module: Any, *_: Any) -> None:
            norms.append(nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item())

    fit(lit(), [batch], max_steps=2, gradient_clip_val=1e-2, precision=precision, callbacks=[NoteNorm()])
    assert norms == pytest.approx([1e-2] * 2, rel=1e-2)


def test_the_unknown_word_is_trained_and_no_other_token_is_touched(lit, fit):
    module = lit(caption_dropout=0.0, word_dropout=0.3)
    tokenizer = new_tokenizer(PROMPTS, max_length=8)
    ids = tokenize(tokenizer, PROMPTS * 500)
    torch.manual_seed(0)
    changed = module._with_unknown_words(ids)
    words = torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(["a", "red", "blue", "tin"])))
    assert set(changed[changed != ids].tolist()) == {tokenizer.unk_token_id}
    assert torch.equal(changed[~words], ids[~words])
    assert (changed != ids)[words].float().mean().item() == pytest.approx(0.3, abs=0.02)

    row = module.text_encoder.get_input_embeddings().weight[tokenizer.unk_token_id]
    before = row.detach().clone()
    latents = {"mean": torch.randn(8, 4, 4, 4), "std": torch.rand(8, 4, 4, 4), "prompt_ids": ids[:8]}
    fit(module, [latents], max_steps=5)
    assert (row.detach() - before).abs().max() > 1e-3


# --- contrastive flow matching ----------------------------------------------------------------------------------------


def test_another_prompt_is_drawn_among_those_that_differ():
    prompt_ids = torch.tensor([[1, 2], [1, 2], [1, 3], [4, 2]])
    torch.manual_seed(0)
    draws = torch.stack([other_prompts(prompt_ids)[0] for _ in range(200)])
    assert [set(column.tolist()) for column in draws.T] == [{2, 3}, {2, 3}, {0, 1, 3}, {0, 1, 2}]
    assert other_prompts(prompt_ids)[1].all()
    assert not other_prompts(prompt_ids[:2])[1].any()


def training_loss(module: LitLatentDiffusion, batch: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(1)
    module.log_every_n_steps = 10**9  # there is no Trainer to log to
    return module.training_step(batch, 0)


def test_the_contrastive_term_against_a_hand_computation(lit, batch):
    plain = lit(caption_dropout=0.0)
    contrastive = lit(caption_dropout=0.0, contrastive_weight=0.05)
    torch.manual_seed(1)
    torch.rand(len(batch["mean"]), 1)  # the captions that are dropped, of which there are none
    prediction, latents, noise, _ = plain._denoise(batch, batch["prompt_ids"])
    others, _ = other_prompts(batch["prompt_ids"])
    assert ((others - torch.arange(16)) % 2 == 1).all(), "prompts alternate"
    distance = (prediction - (noise[others] - latents[others])).square().mean()
    expected = training_loss(plain, batch) - 0.05 * distance
    torch.testing.assert_close(training_loss(contrastive, batch), expected)


@pytest.mark.parametrize("why", ["every caption is dropped", "one prompt only"])
def test_there_is_no_contrast_to_oneself_and_to_the_empty_prompt(lit, batch, why):
    dropout = 1.0 if why.startswith("every") else 0.0
    if not dropout:
        batch["prompt_ids"] = batch["prompt_ids"][:1].expand(16, -1)
    losses = [training_loss(lit(caption_dropout=dropout, contrastive_weight=weight), batch) for weight in (0.0, 0.5)]
    torch.testing.assert_close(*losses)


def test_validation_is_the_same_with_and_without_contrast(lit, batch):
    values = [lit(contrastive_weight=weight).validation_values(batch)["val/loss"] for weight in (0.0, 0.5)]
    torch.testing.assert_close(*values, rtol=0, atol=0)


def test_flows_of_two_prompts_part_further_with_contrast(lit, batch, fit):
    """The minimum is (velocity - lambda mean velocity of the others) / (1 - lambda): with two prompts of opposite
    latents the difference grows by (1 + lambda) / (1 - lambda)."""
    apart = []
    for weight in (0.0, 0.5):
        module = lit(caption_dropout=0.0, contrastive_weight=weight)
        fit(module, [batch], max_steps=60)
        noisy, timesteps = torch.zeros(2, 4, 4, 4), torch.full((2,), 900.0)
        with torch.no_grad():
            prompts = module.text_encoder(batch["prompt_ids"][:2])[0]
            first, second = module.unet(noisy, timesteps, encoder_hidden_states=prompts).sample
        apart.append((second - first).mean().item())
    assert apart[1] > 1.3 * apart[0] > 0


# --- immiscible noise -------------------------------------------------------------------------------------------------


def test_immiscible_noise_is_the_noise_of_the_batch_nearest_to_its_latents(lit, batch):
    pytest.importorskip("scipy")
    seen = []
    for assigns in (False, True):
        module = lit()
        torch.manual_seed(1)
        _, latents, noise, timesteps = module._denoise(batch, batch["prompt_ids"], assigns=assigns)
        seen.append((latents, noise, timesteps))
    (latents, noise, timesteps), (same_latents, assigned, same_timesteps) = seen
    assert torch.equal(latents, same_latents)
    assert torch.equal(timesteps, same_timesteps)
    assert torch.equal(noise.flatten(1).sum(1).sort().values, assigned.flatten(1).sum(1).sort().values)
    assert (latents - assigned).square().sum() < (latents - noise).square().sum()
    # In training it is used, in validation it is not.
    losses = [training_loss(lit(noise_assignment=kind), batch).item() for kind in ("random", "immiscible")]
    assert losses[0] != losses[1]
    values = [lit(noise_assignment=kind).validation_values(batch)["val/loss"] for kind in ("random", "immiscible")]
    torch.testing.assert_close(*values, rtol=0, atol=0)
