"""What Lightning asks of a strategy besides steps: where its process stands among others, and in which precision."""

import os
from typing import Any

import torch
from pytorch_lightning.plugins import MixedPrecision, Precision
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.utilities import GradClipAlgorithmType

from vae_ldm.errors import VaeLdmError

_LAUNCHER_WORDS = {"no": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
AUTOCAST_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What autocast computes in, of each precision that has it."""


class EngineEnvironment(ClusterEnvironment):
    """The places that an Accelerator's processes have; they were started from outside, by `accelerate launch`."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "29500"))

    @staticmethod
    def detect() -> bool:
        return False  # the strategy brings it along

    def world_size(self) -> int:
        return self.engine.num_processes

    def set_world_size(self, size: int) -> None:
        """Nothing: the launcher has decided."""

    def global_rank(self) -> int:
        return self.engine.process_index

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the launcher has decided."""

    def local_rank(self) -> int:
        return self.engine.local_process_index

    def node_rank(self) -> int:
        return int(os.environ.get("GROUP_RANK", "0"))


class AcceleratePrecision(MixedPrecision):
    """Autocast without a weight cache, which manual optimisation would find stale, and a loss scaler for float16."""

    def clip_gradients(
        self,
        optimizer: Any,
        clip_val: float = 0.0,
        gradient_clip_algorithm: GradClipAlgorithmType = GradClipAlgorithmType.NORM,
    ) -> None:
        """Check as Lightning does, but refuse a fused optimizer only where a scaler would be undone too late."""
        clip = MixedPrecision.clip_gradients if self.scaler is not None else Precision.clip_gradients
        clip(self, optimizer, clip_val, gradient_clip_algorithm)


def engine_precision(asked: Precision, device: torch.device) -> Precision:
    """The plugin for what Trainer(precision=...) and `accelerate launch --mixed_precision` say together.

    Raises VaeLdmError where they say different things, or what the device cannot do.
    """
    launcher = launcher_precision()
    precision = str(asked.precision)
    if launcher is not None and precision not in ("32-true", launcher):
        raise VaeLdmError(
            f"accelerate's mixed_precision means {launcher}, the Trainer says precision={precision}; leave one out"
        )
    precision = launcher or precision
    if precision == "16-mixed" and device.type == "cpu":
        raise VaeLdmError("a CPU has no loss scaler for fp16: its gradients would vanish; use bf16 or no")
    if precision not in AUTOCAST_DTYPES:
        return asked
    return AcceleratePrecision(precision, device.type)  # type: ignore[arg-type]


def launcher_precision() -> str | None:
    """What `accelerate launch` or `accelerate config` asks for, in Lightning's words; None: nothing special."""
    word = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if word not in _LAUNCHER_WORDS:
        raise VaeLdmError(f"accelerate's mixed_precision {word} is not supported; use no, bf16 or fp16")
    return None if word == "no" else _LAUNCHER_WORDS[word]
