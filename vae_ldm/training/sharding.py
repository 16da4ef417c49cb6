"""Weights and optimizer states of a model sharded by FSDP2, in and out of ordinary checkpoints."""

from collections.abc import Iterator
from typing import Any

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

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def whole_weights(module: nn.Module) -> dict[str, Any]:
    """The state dict an unsharded module would have, on the first process; every process must call it."""
    return get_model_state_dict(module, options=_WHOLE)


def load_whole_weights(module: nn.Module, weights: dict[str, Any], *, strict: bool) -> None:
    """Give each process its shard of the weights that all of them have read."""
    set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True, strict=strict))


def whole_optimizer_state(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state dict that the optimizer of an unsharded module would have: parameters by number, not by name."""
    named: Any = get_optimizer_state_dict(module, optimizer, options=_WHOLE)
    if not named:  # all but the first process
        return {}
    numbers = {name: number for number, name in enumerate(_names(named))}
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in named["param_groups"]]
    return {"state": {numbers[name]: state for name, state in named["state"].items()}, "param_groups": groups}


def load_whole_optimizer_state(module: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give each process its shard of a state that `whole_optimizer_state` or an unsharded optimizer has made."""
    names = list(_names(get_optimizer_state_dict(module, optimizer)))
    groups = [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
    named: Any = {"state": {names[number]: values for number, values in state["state"].items()}, "param_groups": groups}
    set_optimizer_state_dict(module, optimizer, named, options=StateDictOptions(full_state_dict=True))


def gather_for_evaluation(module: nn.Module) -> None:
    """Hold all weights whole until `shard_again`, so that a forward pass takes part in no collective."""
    for part in _sharded(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def shard_again(module: nn.Module, *, reshard_after_forward: bool) -> None:
    """Undo `gather_for_evaluation`."""
    for part in _sharded(module):
        part.set_reshard_after_forward(reshard_after_forward, recurse=False)
        part.reshard()


def make_whole(module: nn.Module) -> None:
    """Turn a sharded module back into an ordinary one, with all of its weights on the CPU of every process."""
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


def is_sharded(module: nn.Module) -> bool:
    """It has not been made whole."""
    return next(_sharded(module), None) is not None


def _sharded(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))


def _names(state: dict[str, Any]) -> Iterator[str]:
    return (name for group in state["param_groups"] for name in group["params"])
