"""Muon: orthogonal steps for matrices, AdamW for the rest, in one optimizer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from vae_ldm.assembly import build_optimizer
from vae_ldm.recipe import parts
from vae_ldm.training.muon import MuonWithAdamW, orthogonalize, split_parameters
from vae_ldm.training.optimizers import new_optimizer

SETTINGS = build_optimizer(parts.Muon(learning_rate=0.02, lr_scheduler="constant", warmup_steps=0, weight_decay=0))


class Small(nn.Module):
    """A kernel, a matrix, a scale, biases and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 6)
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.linear = nn.Linear(8, 6)

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        seen = self.linear(self.norm(self.convolution(images)).mean((2, 3)))
        return (seen * self.embedding(words)).sum(1)


def descend(module: Small, optimizer: torch.optim.Optimizer, steps: range) -> float:
    loss = 0.0
    for step in steps:
        torch.manual_seed(step)
        error = (module(torch.randn(4, 3, 6, 6), torch.arange(4)) - 1).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        loss = error.item()
    return loss


def polynomial(matrix: Tensor, steps: int) -> Tensor:
    """Jordan's quintic of the singular values, in double precision."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16), (16, 24), (1, 9), (9, 1)])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_newton_schulz_is_the_polynomial_of_the_singular_values(shape, steps):
    torch.manual_seed(0)
    matrices = torch.randn(2, *shape)
    for found, matrix in zip(orthogonalize(matrices, steps), matrices, strict=True):
        assert torch.allclose(found.double(), polynomial(matrix, steps), atol=1e-5)


def test_newton_schulz_of_nearly_singular_and_zero_matrices():
    torch.manual_seed(0)
    low_rank = (torch.randn(16, 2) @ torch.randn(2, 90))[None]
    assert torch.allclose(orthogonalize(low_rank, 5)[0].double(), polynomial(low_rank[0], 5), atol=1e-3)
    assert orthogonalize(torch.zeros(1, 4, 12), 5).abs().max() == 0


def test_which_parameters_are_matrices():
    module = Small()
    module.linear.bias.requires_grad_(False)
    matrices, others = split_parameters(module)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert [names[id(parameter)] for parameter in matrices] == ["convolution.weight", "linear.weight"]
    assert [names[id(parameter)] for parameter in others] == [
        "embedding.weight", "convolution.bias", "norm.weight", "norm.bias"
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torch_on_matrices(weight_decay):
    """torch rounds the iterations to bfloat16."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(12, 20)) for _ in range(2))
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": weight_decay}
    adamw = {"newton_schulz_steps": 5, "adamw_lr": 1e-3, "betas": (0.9, 0.99)}
    optimizers = (MuonWithAdamW([ours], [], **settings, **adamw), torch.optim.Muon([theirs], **settings))  # type: ignore[arg-type]
    for _ in range(3):
        gradient = torch.randn(12, 20)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert not torch.equal(ours, torch.ones_like(ours))


def test_steps_are_those_of_adamw_on_all_other_parameters():
    module = Small()
    twin = copy.deepcopy(module)
    optimizer, _ = new_optimizer(module, SETTINGS, max_steps=10)
    adamw = torch.optim.AdamW(split_parameters(twin)[1], lr=4e-3, betas=SETTINGS.betas, weight_decay=0, fused=True)
    for parameter, other in zip(module.parameters(), twin.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    optimizer.step()
    adamw.step()
    assert torch.equal(module.norm.weight, twin.norm.weight)
    assert torch.equal(module.embedding.weight, twin.embedding.weight)
    assert not torch.equal(module.linear.weight, twin.linear.weight)


def test_a_kernel_moves_by_an_orthogonal_matrix():
    module = Small()
    before = module.convolution.weight.detach().clone()
    optimizer, _ = new_optimizer(module, SETTINGS, max_steps=10)
    descend(module, optimizer, range(1))
    moved = (module.convolution.weight.detach() - before).flatten(1)
    values = torch.linalg.svdvals(moved) / 0.02
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_schedule_lowers_both_learning_rates():
    module = Small()
    settings = build_optimizer(parts.Muon(lr_scheduler="linear", warmup_steps=0))
    optimizer, lr_scheduler = new_optimizer(module, settings, max_steps=4)
    for _ in range(2):
        optimizer.step()
        lr_scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.002])


def test_it_learns_and_a_stored_state_goes_on_to_the_bit(tmp_path):
    module = Small()
    optimizer, _ = new_optimizer(module, SETTINGS, max_steps=40)
    first = descend(module, optimizer, range(1))
    descend(module, optimizer, range(1, 20))
    torch.save({"weights": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.ckpt")
    assert descend(module, optimizer, range(20, 40)) < 0.2 * first

    resumed = Small()
    optimizer, _ = new_optimizer(resumed, SETTINGS, max_steps=40)
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)
    resumed.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    descend(resumed, optimizer, range(20, 40))
    for one, other in zip(module.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_of_another_memory_layout_move_alike():
    module, twin = Small(), Small()
    twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for each in (module, twin):
        descend(each, new_optimizer(each, SETTINGS, max_steps=3)[0], range(3))
    assert torch.allclose(module.convolution.weight, twin.convolution.weight, atol=1e-4)


def test_steps_are_exact_under_autocast():
    """Manual optimisation steps inside the training step, and so inside autocast, where products are bfloat16."""
    module, twin = Small(), Small()
    for each in (module, twin):
        optimizer, _ = new_optimizer(each, SETTINGS, max_steps=3)
        torch.manual_seed(1)
        for parameter in each.parameters():
            parameter.grad = torch.randn_like(parameter)
        with torch.autocast("cpu", torch.bfloat16, enabled=each is twin):
            optimizer.step()
    for one, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_parameter_without_gradient_stays():
    module = Small()
    optimizer, _ = new_optimizer(module, SETTINGS, max_steps=3)
    before = copy.deepcopy(module.state_dict())
    module.linear.weight.grad = torch.randn_like(module.linear.weight)
    optimizer.step()
    changed = [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["linear.weight"]


def test_a_closure_is_called_once():
    module = Small()
    optimizer, _ = new_optimizer(module, SETTINGS, max_steps=3)
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module.linear.weight.square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
