"""The Accelerator of this process: what the launcher has set up, and nothing that Lightning does itself."""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)

from vae_ldm.errors import VaeLdmError
from vae_ldm.training.deepspeed_engine import Zero
from vae_ldm.training.sharding import Fsdp2


def new_engine(*, timeout: timedelta | None = None, **ddp: Any) -> Accelerator:
    """The process's Accelerator, as the launcher's flags and `accelerate config` describe it.

    Its state is one for the process: only the first call joins the other processes. Precision, accumulation and
    schedulers stay Lightning's, so they are off here whatever the launcher says.
    """
    join = InitProcessGroupKwargs() if timeout is None else InitProcessGroupKwargs(timeout=timeout)
    engine = Accelerator(
        mixed_precision="no",
        cpu=not torch.accelerator.is_available(),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[join, DistributedDataParallelKwargs(**ddp)],
    )
    atexit.unregister(_leave)
    atexit.register(_leave)
    return engine


def _leave() -> None:
    if PartialState._shared_state:
        PartialState().destroy_process_group()


def sharding_of(engine: Accelerator) -> Fsdp2 | Zero | None:
    """How the engine spreads weights over processes; None where each process has all of them.

    Raises VaeLdmError for an engine that the strategy does not keep right.
    """
    kind = engine.distributed_type
    for name, flag in (("FSDP", "ACCELERATE_USE_FSDP"), ("DEEPSPEED", "ACCELERATE_USE_DEEPSPEED")):
        if os.environ.get(flag) == "true" and kind.name != name and engine.device.type == "cpu":
            raise VaeLdmError(f"accelerate has no {name} for the CPU, and this machine has no GPU; leave it out")
    if kind == DistributedType.FSDP:
        if not engine.is_fsdp2:
            raise VaeLdmError("FSDP of version 1 is not supported; set fsdp_version: 2 in accelerate's configuration")
        return Fsdp2(engine)
    if kind == DistributedType.DEEPSPEED:
        return Zero(engine)
    if kind != DistributedType.NO and not kind.name.startswith("MULTI_"):
        raise VaeLdmError(f"accelerate's {kind.value} is not supported; use multi-GPU (DDP) or FSDP2")
    return None
