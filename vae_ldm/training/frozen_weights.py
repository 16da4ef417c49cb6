"""Checkpoints without the weights that are not trained: those of a LoRA are then of a few megabytes."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from vae_ldm.choices import Stage
from vae_ldm.errors import WeightsError
from vae_ldm.models.weights_digest import tensors_digest
from vae_ldm.training.checkpoint_file import read_checkpoint


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


class FrozenWeights(Callback):
    """Keeps digests of the weights that `leave_frozen_out` leaves out, so that no run goes on beside other ones.

    The starter of another version of vae_ldm has other weights, and so may a repository of the Hub later on.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.digests: dict[str, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        children = pl_module.named_children()
        self.digests = {name: digest for name, child in children if (digest := frozen_digest(child)) is not None}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.digests)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise WeightsError where the checkpoint was written beside other frozen weights."""
        for name, digest in self.digests.items():
            check_frozen(self.stage, name, state_dict.get(name), digest)

    @classmethod
    def in_checkpoint(cls, path: Path) -> dict[str, str]:
        """The digests by the names of the networks; none in a checkpoint that was written before they were kept."""
        return read_checkpoint(path, mmap=True)["callbacks"].get(cls.__name__, {})


def frozen_digest(network: nn.Module) -> str | None:
    """SHA-256 of the parameters of a network that are not trained; None where all are."""
    frozen = {name: each for name, each in network.named_parameters() if not each.requires_grad}
    return tensors_digest(frozen) if frozen else None


def check_frozen(stage: Stage, network: str, before: str | None, now: str | None) -> None:
    """Raise WeightsError where a checkpoint's digest of a network's frozen weights is known, and is not that of now."""
    if before is not None and now is not None and before != now:
        raise WeightsError(
            f"{stage}: the checkpoint was trained beside other weights of the {network} (SHA-256 {before[:12]}) than "
            f"from_pretrained gives now ({now[:12]}); give it those again (a starter comes with its version of "
            f"vae_ldm, a name of the Hub takes a revision), or begin anew with --restart {stage}"
        )
