"""FSDP2: each process holds a part of the weights, and checkpoints are still those of one process."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vae_ldm.errors import VaeLdmError
from vae_ldm.training.muon import NEEDS_WHOLE_MATRICES, MuonWithAdamW

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Fsdp2:
    """What the strategy leaves to an Accelerator under FSDP2. Every process must call each method."""

    restores_after_setup = True
    """A checkpoint is read when the module has been wrapped."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def check(self, trainer: Trainer) -> None:
        """Raise VaeLdmError for what would come out wrong."""
        if not trainer.lightning_module.automatic_optimization:
            raise VaeLdmError(
                "manual optimisation needs whole gradients, which FSDP2 does not keep; use multi-GPU (DDP)"
            )
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise VaeLdmError("an average of weights (ema) is not kept right by FSDP2; set ema: null, or use DDP")

    def wrap(self, module: nn.Module, optimizers: list[Optimizer], context: Any) -> tuple[nn.Module, list[Optimizer]]:
        """What a training step goes through, and the optimizers, whose parameters are shards now."""
        if any(isinstance(optimizer, MuonWithAdamW) for optimizer in optimizers):
            raise VaeLdmError(f"{NEEDS_WHOLE_MATRICES.format('FSDP2')}, or use multi-GPU (DDP)")
        model, *prepared = self.engine.prepare(module, *optimizers)
        return model, [optimizer.optimizer for optimizer in prepared]

    def without_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Backward passes that leave gradients on their process."""
        return self.engine.no_sync(model)

    def weights(self, module: nn.Module) -> dict[str, Any]:
        """The state dict an unsharded module would have, on the first process."""
        return get_model_state_dict(module, options=_WHOLE)

    def load_weights(self, module: nn.Module, weights: dict[str, Any], *, strict: bool) -> None:
        """Give each process its shard of the weights that all of them have read."""
        set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True, strict=strict))

    def optimizer_state(self, module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """The state dict that the optimizer of an unsharded module would have: parameters by number, not by name."""
        named: Any = get_optimizer_state_dict(module, optimizer, options=_WHOLE)
        if not named:  # all but the first process
            return {}
        numbers = {name: number for number, name in enumerate(_names(named))}
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in named["param_groups"]]
        return {"state": {numbers[name]: state for name, state in named["state"].items()}, "param_groups": groups}

    def load_optimizer_state(self, module: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Give each process its shard of a state that `optimizer_state` or an unsharded optimizer has made."""
        names = list(_names(get_optimizer_state_dict(module, optimizer)))
        groups = [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
        values = {names[number]: value for number, value in state["state"].items()}
        named: Any = {"state": values, "param_groups": groups}
        set_optimizer_state_dict(module, optimizer, named, options=StateDictOptions(full_state_dict=True))

    def before_evaluation(self, module: nn.Module) -> None:
        """Hold all weights whole until `after_evaluation`, so that a forward pass takes part in no collective."""
        for part in _sharded(module):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()

    def after_evaluation(self, module: nn.Module) -> None:
        """Undo `before_evaluation`."""
        reshard = self.engine.state.fsdp_plugin.reshard_after_forward
        for part in _sharded(module):
            part.set_reshard_after_forward(reshard, recurse=False)
            part.reshard()

    def make_whole(self, module: nn.Module) -> None:
        """Turn the module back into an ordinary one, with all of its weights on the CPU of every process."""
        for part in list(_sharded(module)):
            state = part._get_fsdp_state()
            for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
                handle.remove()
            part.reshard()
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                if isinstance(parameter, DTensor):
                    whole = nn.Parameter(parameter.full_tensor().detach().cpu(), parameter.requires_grad)
                    owner._parameters[name] = whole
        for part in list(_sharded(module)):
            # fully_shard has put a class of its own in, made of FSDPModule and what the module was.
            part.__class__ = type(part).__bases__[1]  # type: ignore[assignment]

    def is_whole(self, module: nn.Module) -> bool:
        """It can be moved: it has been made whole, or never was sharded."""
        return next(_sharded(module), None) is None


def _sharded(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))


def _names(state: dict[str, Any]) -> Iterator[str]:
    return (name for group in state["param_groups"] for name in group["params"])
