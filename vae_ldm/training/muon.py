"""Muon: momentum whose matrices are made orthogonal before they are added to the weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Jordan's quintic: singular values between 0.01 and 1 come out between 0.7 and 1.2 after five iterations."""


NEEDS_WHOLE_MATRICES = "Muon makes whole matrices orthogonal, and {} keeps parts of them; set optimizer.type: adamw"
"""Why an engine refuses it."""


class MuonWithAdamW(torch.optim.AdamW):
    """Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) for matrices, AdamW for all other parameters.

    Linear weights and convolution kernels, flattened to [out, in * height * width], are matrices. Embeddings, biases
    and scales are not. torch.optim.Muon takes matrices only, and each by itself; here both kinds share one optimizer,
    and so one schedule, one checkpoint and one clipping, and matrices of one shape are made orthogonal at once.

    A matrix moves by `lr` * sqrt(max(1, rows / columns)), as in Jordan's own code: singular values of about 1 change
    the output of each layer by about as much, whatever its shape (Bernstein 2025, https://arxiv.org/abs/2502.04667).
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        newton_schulz_steps: int,
        adamw_lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool = True,
    ) -> None:
        """`adamw_lr` and `betas` are those of `others`; `weight_decay` is decoupled, and of both kinds."""
        for_matrices = {"lr": lr, "momentum": momentum, "newton_schulz_steps": newton_schulz_steps}
        groups = [{"params": list(matrices), **for_matrices}, {"params": list(others), "lr": adamw_lr}]
        super().__init__(groups, betas=betas, weight_decay=weight_decay, fused=fused)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of both kinds."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if "momentum" in group:
                self._step_matrices(group)
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())  # AdamW's code for stored states asks every parameter for it
                state["momentum_buffer"] = torch.zeros_like(parameter)
            state["step"] += 1
            average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
            ahead = parameter.grad.lerp(average, momentum)  # Nesterov's
            matrix = ahead.flatten(1).float()
            by_shape.setdefault(matrix.shape, []).append((parameter, matrix))
        for (rows, columns), members in by_shape.items():
            directions = orthogonalize(torch.stack([matrix for _, matrix in members]), group["newton_schulz_steps"])
            size = lr * max(1, rows / columns) ** 0.5
            for (parameter, _), direction in zip(members, directions, strict=True):
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(direction.reshape(parameter.shape), alpha=-size)


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Nearly the orthogonal matrix nearest to each of `matrices`, float32 [N, rows, columns].

    Newton-Schulz iterations X <- a X + b (X X^T) X + c (X X^T)^2 X with Jordan's coefficients. Where a matrix is
    long, they run on its small square X X^T, which has the same polynomials, and X is multiplied once, at the end.
    """
    with torch.autocast(matrices.device.type, enabled=False):  # a step inside autocast would be rounded to bfloat16
        return _orthogonalize(matrices, steps)


def _orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if is_tall else matrices
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    rows, columns = wide.shape[-2:]
    if columns < 2 * rows:
        for _ in range(steps):
            square = wide @ wide.mT
            wide = torch.baddbmm(wide, torch.baddbmm(square, square, square, beta=b, alpha=c), wide, beta=a)
        return wide.mT if is_tall else wide
    square = wide @ wide.mT
    identity = torch.eye(rows, dtype=wide.dtype, device=wide.device)
    product = None
    for step in range(steps):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c) + a * identity
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            square = factor @ square @ factor
    result = wide if product is None else product @ wide
    return result.mT if is_tall else result


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters of a module: matrices and kernels, and all others."""
    embeddings = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (matrices if is_matrix else others).append(parameter)
    return matrices, others
