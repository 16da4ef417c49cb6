"""Checkpoints without the weights that are not trained: those of a LoRA are then of a few megabytes."""

from typing import Any

from torch import nn


def leave_frozen_out(module: nn.Module) -> None:
    """Keep parameters that have no gradient out of the module's state_dict, and take its own for them on loading.

    To be called once it is settled what is trained. Copies of the module (an average) do the same.
    """
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    if not frozen:
        return

    def drop(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
        for name in frozen:
            state.pop(prefix + name, None)

    def supply(owner: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
        own = dict(owner.named_parameters())
        for name in frozen:
            state.setdefault(prefix + name, own[name])

    module.register_state_dict_post_hook(drop)
    module.register_load_state_dict_pre_hook(supply)
