"""DeepSpeed's ZeRO 1 and 2: each process keeps the optimizer's state, and at 2 gradients, of its part of the weights.

The weights themselves stay whole everywhere. Checkpoints are those of one process.
"""

import copy
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from vae_ldm.errors import VaeLdmError
from vae_ldm.training.divergence import StopOnDivergence
from vae_ldm.training.muon import NEEDS_WHOLE_MATRICES, MuonWithAdamW

_OURS = {"optimizer", "scheduler", "fp16", "bf16", "torch_autocast"}
"""Sections of a DeepSpeed configuration that say what the module and the Trainer say."""


class Zero:
    """What the strategy leaves to an Accelerator under DeepSpeed. Every process must call each method.

    Precision, accumulation and schedules are the Trainer's, as everywhere. Clipping is done by DeepSpeed, which alone
    has the gradients, to the Trainer's `gradient_clip_val`.
    """

    restores_after_setup = False
    """DeepSpeed copies the weights that it finds."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._clip_norm = 0.0
        self._parameters: list[list[nn.Parameter]] = []

    @property
    def _config(self) -> dict[str, Any]:
        return self.engine.state.deepspeed_plugin.deepspeed_config

    def check(self, trainer: Trainer) -> None:
        """Raise VaeLdmError for what would come out wrong."""
        zero, config = self._config.get("zero_optimization", {}), self._config
        if not trainer.lightning_module.automatic_optimization:
            raise VaeLdmError("manual optimisation needs gradients that DeepSpeed does not keep; use multi-GPU (DDP)")
        if zero.get("stage") not in (1, 2):
            raise VaeLdmError(f"DeepSpeed's ZeRO stage {zero.get('stage')} is not supported; use 1 or 2, or FSDP2")
        for part in ("offload_optimizer", "offload_param"):
            if (zero.get(part) or {}).get("device", "none") != "none":
                raise VaeLdmError(f"DeepSpeed's {part} is not supported; set its device to none")
        if twice := sorted(_OURS & {name for name, value in config.items() if _is_on(value)}):
            raise VaeLdmError(
                f"DeepSpeed's configuration has {', '.join(twice)}, which the Trainer decides; leave it out"
            )
        if trainer.precision == "16-mixed":
            raise VaeLdmError("fp16 under DeepSpeed is not supported: its loss scaler is not the Trainer's; use bf16")
        if trainer.gradient_clip_algorithm == "value":
            raise VaeLdmError("DeepSpeed clips gradients by norm only; set gradient_clip_algorithm: norm")
        self._clip_norm = float(trainer.gradient_clip_val or 0.0)
        asked = config.get("gradient_clipping", "auto")
        if asked not in ("auto", self._clip_norm):
            raise VaeLdmError(
                f"DeepSpeed's gradient_clipping is {asked}, the Trainer's gradient_clip_val {self._clip_norm}; "
                "leave the first one out"
            )
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, StopOnDivergence) and callback.on_nan == "skip" for callback in callbacks):
            raise VaeLdmError("on_nan: skip looks at gradients, which DeepSpeed does not show; set on_nan: stop")

    def wrap(self, module: nn.Module, optimizers: list[Optimizer], context: Any) -> tuple[nn.Module, list[Optimizer]]:
        """What a training step goes through, and the optimizers, whose parameters are flat parts of all now."""
        if not optimizers:
            return module, []
        if any(isinstance(optimizer, MuonWithAdamW) for optimizer in optimizers):
            raise VaeLdmError(f"{NEEDS_WHOLE_MATRICES.format('DeepSpeed')}, or use multi-GPU (DDP)")
        if len(optimizers) > 1 or type(optimizers[0]) not in (Adam, AdamW, SGD):
            raise VaeLdmError(
                "DeepSpeed lays all weights out as one vector, which is right for a single optimizer that takes each "
                "number by itself: torch's Adam, AdamW or SGD"
            )
        (optimizer,) = optimizers
        self._parameters = [list(group["params"]) for group in optimizer.param_groups]
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        asked = copy.deepcopy(self._config)
        self._config.update(
            gradient_clipping=self._clip_norm,
            gradient_accumulation_steps=1,
            train_micro_batch_size_per_gpu=1,  # of no consequence: the loss is a mean already
            train_batch_size=self.engine.num_processes,
        )
        model, _ = self.engine.prepare(_InPrecision(module, context), optimizer)
        self._config.clear()
        self._config.update(asked)
        return model, optimizers

    @contextmanager
    def without_sync(self, model: Any) -> Generator[None, None, None]:
        """Backward passes after which no step follows yet."""
        model.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            model.set_gradient_accumulation_boundary(True)

    def weights(self, module: nn.Module) -> dict[str, Any]:
        """The module's state dict: every process has all weights."""
        return module.state_dict()

    def load_weights(self, module: nn.Module, weights: dict[str, Any], *, strict: bool) -> None:
        """Read the weights, before DeepSpeed copies them."""
        module.load_state_dict(weights, strict=strict)

    def optimizer_state(self, module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """The state dict that the optimizer of one process would have."""
        groups, states = [], {}
        for group, numbered in self._groups(optimizer):
            settings = {name: value for name, value in group.items() if name != "params"}
            groups.append(settings | {"params": [number for number, _ in numbered]})
            (flat,) = group["params"]
            own = optimizer.state.get(flat, {})
            for number, parameter in numbered:
                if own and parameter.requires_grad:
                    states[number] = {
                        name: self._whole(parameter, value) if _is_laid_out_as(flat, value) else copy.deepcopy(value)
                        for name, value in own.items()
                    }
        return {"state": states, "param_groups": groups}

    def load_optimizer_state(self, module: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Give each process its part of a state that `optimizer_state` or an ordinary optimizer has made."""
        for (group, numbered), saved in zip(self._groups(optimizer), state["param_groups"], strict=True):
            (flat,) = group["params"]
            group.update({name: value for name, value in saved.items() if name != "params"})
            own = optimizer.state[flat]
            for number, parameter in numbered:
                for name, value in state["state"].get(number, {}).items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        _copy_part(parameter, value, own.setdefault(name, torch.zeros_like(flat)))
                    else:
                        own[name] = value.to(flat.device) if group.get("fused") else value

    def before_evaluation(self, module: nn.Module) -> None:
        """Nothing: the weights are whole."""

    def after_evaluation(self, module: nn.Module) -> None:
        """Nothing."""

    def make_whole(self, module: nn.Module) -> None:
        """Nothing; the engine's hooks go when its memory is freed."""

    def is_whole(self, module: nn.Module) -> bool:
        """Yes."""
        return True

    def _groups(self, optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], list[tuple[int, nn.Parameter]]]]:
        """Each group, with the parameters that it had before DeepSpeed and their numbers in a state dict."""
        first = 0
        for group, parameters in zip(optimizer.param_groups, self._parameters, strict=True):
            yield group, list(enumerate(parameters, first))
            first += len(parameters)

    def _whole(self, parameter: Any, flat: Tensor) -> Tensor:
        """A parameter's numbers of a flat state, of which this process may have some, on the CPU."""
        whole = torch.zeros(parameter.numel(), dtype=flat.dtype, device=flat.device)
        if parameter._hp_mapping is not None:
            here, there = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
            whole.narrow(0, here.start, here.numel).copy_(flat.narrow(0, there.start, there.numel))
        return self.engine.reduce(whole, "sum").view(parameter.shape).cpu()


class _InPrecision(nn.Module):
    """The module under the Trainer's autocast: DeepSpeed switches one that it finds outside of itself off."""

    def __init__(self, module: nn.Module, context: Any) -> None:
        super().__init__()
        self.module = module
        self.context = context

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.context():
            return self.module(*args, **kwargs)


def _copy_part(parameter: Any, whole: Tensor, flat: Tensor) -> None:
    """Put into a flat state what this process has of a parameter's."""
    if parameter._hp_mapping is not None:
        here, there = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
        flat.narrow(0, there.start, there.numel).copy_(whole.flatten().narrow(0, here.start, here.numel))


def _is_laid_out_as(flat: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == flat.shape


def _is_on(section: Any) -> bool:
    return section.get("enabled", True) is True if isinstance(section, dict) else section is not None
