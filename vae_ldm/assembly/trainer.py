"""Makes the Lightning Trainer from a stage's settings, and prepares modules for it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning import Trainer as LightningTrainer
from pytorch_lightning.loggers import Logger
from torch import nn

from vae_ldm.choices import BestEnd, Network, ValidationMetric
from vae_ldm.errors import VaeLdmError, first_line
from vae_ldm.hardware import fastest_precision
from vae_ldm.recipe import parts
from vae_ldm.training.callbacks import RunCheckpoint, SeedEachStep, StopAfterNoGain
from vae_ldm.training.checkpoint_file import DigestCheckpointIO
from vae_ldm.training.divergence import StopOnDivergence
from vae_ldm.training.engine_plugins import launcher_precision
from vae_ldm.training.optimizers import MuonSettings, OptimizerSettings
from vae_ldm.training.weight_average import FusedAverage


def build_optimizer(part: parts.AdamW | parts.Muon) -> OptimizerSettings:
    """The recipe's optimizer as the training modules take it."""
    muon = None
    if isinstance(part, parts.Muon):
        muon = MuonSettings(part.learning_rate, part.momentum, part.newton_schulz_steps)
    return OptimizerSettings(
        learning_rate=part.adamw_learning_rate if isinstance(part, parts.Muon) else part.learning_rate,
        weight_decay=part.weight_decay,
        betas=part.betas,
        lr_scheduler=part.lr_scheduler,
        warmup_steps=part.warmup_steps,
        muon=muon,
    )


def build_trainer(
    part: parts.Trainer,
    *,
    network: Network,
    best: tuple[ValidationMetric, BestEnd],
    seed: int,
    average: FusedAverage | None,
    checkpoint_dir: Path,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    manual_optimization: bool,
    picture_names: Sequence[str] = (),
) -> LightningTrainer:
    """The Lightning Trainer of a stage. One epoch is the whole run: steps are what is counted.

    `best` is what the stage goes by, and which end of it is best.
    """
    batches_per_step = part.accumulate_grad_batches
    standard: list[Callback] = [
        SeedEachStep(seed),
        StopOnDivergence(
            checkpoint_dir,
            part.log_every_n_steps,
            names=picture_names,
            on_nan=part.on_nan,
            max_skipped_steps=part.max_skipped_steps,
        ),
        RunCheckpoint(checkpoint_dir, every_n_steps=part.checkpoint_every_n_steps, keep=part.keep_checkpoints),
    ]
    if average is not None:
        standard.append(average)
    if part.stop_after_no_gain_steps is not None:
        metric, mode = best
        # Before what saves: a checkpoint has to know of the decision of its own step.
        standard.insert(0, StopAfterNoGain(part.stop_after_no_gain_steps, monitor=metric, mode=mode))
    # A check of torch's for its own mistakes, at each new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return LightningTrainer(
        strategy="accelerate",
        # "warn" and not an error: attention over long sequences has no such kernel that is fast.
        deterministic="warn" if part.deterministic and torch.cuda.is_available() else None,
        plugins=[DigestCheckpointIO()],
        precision=expected_precision(part, network),  # type: ignore[arg-type]
        max_steps=part.max_steps,
        max_epochs=-1,
        # In manual optimisation the module accumulates and clips by itself.
        accumulate_grad_batches=1 if manual_optimization else batches_per_step,
        gradient_clip_val=None if manual_optimization else part.gradient_clip_norm,
        val_check_interval=part.val_every_n_steps * batches_per_step,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        # In manual optimisation Lightning counts batches.
        log_every_n_steps=part.log_every_n_steps * (batches_per_step if manual_optimization else 1),
        logger=list(loggers),
        callbacks=[*callbacks, *standard],
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def expected_precision(part: parts.Trainer, network: Network) -> str:
    """The precision that a stage trains in: the recipe's, the launcher's, or the fastest of this machine."""
    return part.precision or launcher_precision() or fastest_precision(network)


def check_precision(part: parts.Trainer, network: Network) -> None:
    """Raise VaeLdmError where recipe and launcher name different precisions, or one that the network cannot use."""
    launcher = launcher_precision()
    if part.precision and launcher and part.precision != launcher:
        raise VaeLdmError(
            f"accelerate's mixed_precision means {launcher}, the recipe says precision: {part.precision}; leave one out"
        )
    if launcher == "16-mixed" and network == "autoencoder":
        raise VaeLdmError(
            "accelerate's mixed_precision fp16 would scale the autoencoder's two losses with one scaler; use bf16, or "
            "no with diffusion.trainer.precision: 16-mixed"
        )
    if (launcher or part.precision) == "16-mixed" and not torch.cuda.is_available():
        raise VaeLdmError("precision: 16-mixed takes a GPU; on a CPU use bf16-mixed or 32-true")


def checkpoint_gradients_if_asked(part: parts.Trainer, network: AutoencoderKL | UNet2DConditionModel) -> None:
    """Let the network keep only what goes into its blocks, and run each block again in the backward pass."""
    if part.gradient_checkpointing:
        network.enable_gradient_checkpointing()


def compile_if_asked(part: parts.Trainer, modules: Sequence[nn.Module], *, say: Callable[[str], None]) -> None:
    """torch.compile in place; where it does not work the modules stay eager and a line says so."""
    if not part.compile:
        return
    try:
        _try_to_compile()
    except Exception as error:  # compilers and their libraries fail in their own ways
        say(f"torch.compile does not work here ({first_line(error)}); going on without it")
        return
    say("compiling: the first step of a stage takes minutes")
    torch._dynamo.config.suppress_errors = True  # a graph that cannot be compiled later on runs eagerly
    log = logging.getLogger("torch._dynamo.convert_frame")
    log.filters = [other for other in log.filters if not isinstance(other, _OneLineAFailure)]
    log.addFilter(_OneLineAFailure(say))
    for module in modules:
        module.compile()


def _try_to_compile() -> None:
    with torch._dynamo.config.patch(suppress_errors=False):
        torch.compile(torch.cos)(torch.ones(2))


class _OneLineAFailure(logging.Filter):
    """Says in one line, once, that a graph was not compiled, where torch prints the traceback of each."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say: Callable[[str], None] | None = say

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if self._say is not None:
            self._say(f"a part of the network cannot be compiled ({first_line(error)}) and runs as it is")
            self._say = None
        return False


def place_channels_last(part: parts.Trainer, module: LightningModule, network: Network) -> None:
    """Lay convolution weights out channels-last where the recipe asks for it, or, by default, where it is faster.

    Only a UNet on a GPU is faster. An autoencoder's large maps lose a quarter of the speed there, and CPUs gain
    nothing.
    """
    faster = torch.cuda.is_available() and network == "unet"
    if faster if part.channels_last is None else part.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
