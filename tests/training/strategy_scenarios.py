"""Trainings that run the same in one process and in each of two, and what they leave."""

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from accelerate import Accelerator
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vae_ldm  # noqa: F401
from tests.conftest import NANO_AUTOENCODER
from tests.training.conftest import lit_settings
from vae_ldm.assembly import build_optimizer
from vae_ldm.errors import RunError
from vae_ldm.losses.reconstruction import l1_error
from vae_ldm.models import autoencoder as autoencoders
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.recipe import parts
from vae_ldm.training.divergence import StopOnDivergence
from vae_ldm.training.lit_autoencoder import LitAutoencoder
from vae_ldm.training.optimizers import new_optimizer
from vae_ldm.training.power_averages import PowerAverages
from vae_ldm.training.weight_average import WarmedEma

State = dict[str, Any]


class Numbers(LightningModule):
    """A small regression with a buffer that differs a process, one optimizer, a scheduler and clipping that acts."""

    def __init__(self, *, unused: bool = False, muon: bool = False) -> None:
        super().__init__()
        self.muon = muon
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
        self.unused = nn.Linear(2, 2) if unused else None
        self.register_buffer("seen", torch.zeros(()))
        self.epoch_order: list[float] = []
        self.wrapper = ""
        self.predicted: list[Tensor] = []

    def on_train_start(self) -> None:
        self.wrapper = type(self.trainer.strategy.model).__name__

    def error(self, batch: Any) -> Tensor:
        x, y = batch
        return (self.net(x)[:, 0] - y).square()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.add_(len(batch[0]) * (1 + self.global_rank))
        self.epoch_order += batch[1].tolist()
        loss = self.error(batch).mean()
        self.log("train/loss", loss, sync_dist=True, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/error", self.error(batch).mean(), batch_size=len(batch[0]), sync_dist=True)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.predicted.append(batch[1])
        return self.error(batch)

    def configure_optimizers(self) -> Any:
        if self.muon:
            optimizer, lr_scheduler = new_optimizer(self, build_optimizer(parts.Muon(warmup_steps=2)), max_steps=20)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}


def numbers(count: int = 48) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    return TensorDataset(x, x.sum(1) + torch.arange(count) / count)


class Photos(Dataset[dict[str, Tensor]]):
    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(2)
        self.images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index]}


def lit_autoencoder(*, adam: bool = True, **settings: Any) -> LitAutoencoder:
    """A nano autoencoder without noise, so that the processes' draws do not matter."""
    torch.manual_seed(0)
    autoencoders.AUTOENCODER_SIZES["tiny"] = NANO_AUTOENCODER
    network = autoencoders.new_autoencoder(
        "tiny", downsample_factor=4, latent_channels=4, image_channels=3, image_size=(16, 16)
    )
    torch.manual_seed(1)
    defaults = {
        "reconstruction": l1_error,
        "variational": False,
        "optimizer": build_optimizer(parts.AdamW(learning_rate=1e-3, lr_scheduler="constant", warmup_steps=0)),
        "max_steps": 100,
        "log_every_n_steps": 1,
        "discriminator": PatchDiscriminator(in_channels=3, base_channels=8, num_layers=2),
        "adversarial_weight": 0.5,
        "gradient_clip_norm": 0.5,
    }
    return (LitAutoencoder if adam else Descending)(network, **lit_settings(**defaults | settings))


class Descending(LitAutoencoder):
    """By plain gradient descent: Adam makes a difference of the last digit in a gradient near zero a whole step."""

    def configure_optimizers(self) -> Any:
        assert self.discriminator is not None
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.autoencoder, self.discriminator)]
        return optimizers, [torch.optim.lr_scheduler.ConstantLR(optimizers[0])]


def trainer(*, strategy: Any = "accelerate", **settings: Any) -> Trainer:
    warnings.filterwarnings("ignore", message=".*LeafSpec")
    warnings.filterwarnings("ignore", category=pl.utilities.warnings.PossibleUserWarning)
    torch.set_num_threads(1)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "accelerator": "gpu" if torch.cuda.is_available() else "cpu",
    }
    return Trainer(strategy=strategy, **quiet | settings)


def state_of(fitted: Trainer, module: LightningModule) -> State:
    return {
        "weights": copy.deepcopy(module.state_dict()),
        "metrics": {name: float(value) for name, value in fitted.callback_metrics.items()},
        "step": fitted.global_step,
    }


def fit_numbers(
    *, batch_size: int, strategy: Any = "accelerate", ema: bool = False, val_count: int = 13, shuffle: bool = False,
    num_workers: int = 0, muon: bool = False, power: bool = False, checkpoint: str | None = None,
    save_to: str | None = None,
    save_at: int = 0, **settings: Any,
) -> State:  # fmt: skip
    module = Numbers(muon=muon)
    callbacks: list[pl.Callback] = [WarmedEma(0.9)] if ema else []
    if power:
        callbacks.append(PowerAverages(Path("averages"), [], dtype=torch.float16))
    if save_to is not None:
        callbacks.append(SaveAt(save_to, save_at))
    fitted = trainer(strategy=strategy, **{"max_epochs": 2, "callbacks": callbacks} | settings)
    data = numbers()
    fitted.fit(
        module,
        DataLoader(data, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers),
        DataLoader(numbers(val_count), batch_size=8),
        ckpt_path=checkpoint,
        weights_only=True,
    )
    return state_of(fitted, module) | {
        "order": module.epoch_order,
        "wrapper": module.wrapper,
        "device": fitted.strategy.root_device.type,
        "scale": getattr(getattr(fitted.precision_plugin, "scaler", None), "get_scale", lambda: 1.0)(),
    }


class SaveAt(pl.Callback):
    def __init__(self, path: str, batch: int) -> None:
        self.path, self.batch = path, batch
        self.seen = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.batch:
            trainer.save_checkpoint(self.path)


def fit_autoencoder(
    *, batch_size: int, steps: int = 4, strategy: Any = "accelerate", ema: bool = False, precision: Any = None,
    checkpoint: str | None = None, save_to: str | None = None, save_at: int = 0, shuffle: bool = False, **settings: Any,
) -> State:  # fmt: skip
    module = lit_autoencoder(**settings)
    callbacks: list[pl.Callback] = [WarmedEma(0.9)] if ema else []
    if save_to is not None:
        callbacks.append(SaveAt(save_to, save_at))
    fitted = trainer(strategy=strategy, max_steps=steps, callbacks=callbacks, precision=precision)
    fitted.fit(
        module,
        DataLoader(Photos(32), batch_size=batch_size, shuffle=shuffle),
        DataLoader(Photos(13), batch_size=8),
        ckpt_path=checkpoint,
        weights_only=True,
    )
    return state_of(fitted, module)


def validate_test_predict() -> dict[str, Any]:
    module = Numbers()
    whole = trainer()
    loader = DataLoader(numbers(13), batch_size=8)
    whole.validate(module, loader, verbose=False)
    found = {"val": float(whole.callback_metrics["val/error"])}
    whole.test(module, loader, verbose=False)
    found["test"] = float(whole.callback_metrics["val/error"])
    whole.predict(module, loader, return_predictions=False)
    return found | {"predicted": torch.cat(module.predicted).tolist()}


def collectives() -> dict[str, Any]:
    made = trainer()
    strategy: Any = made.strategy
    one = torch.tensor(1 + strategy.global_rank)
    return {
        "ops": {op: strategy.reduce(one, reduce_op=op).item() for op in ("mean", "sum", "min", "max", "product")},
        "unchanged": one.item(),
        "any": strategy.reduce_boolean_decision(strategy.is_global_zero, all=False),
        "all": strategy.reduce_boolean_decision(strategy.is_global_zero),
        "said": strategy.broadcast({"from": strategy.global_rank}),
        "gathered": strategy.all_gather(one).tolist(),
        "ranks": (made.global_rank, made.local_rank, made.world_size, made.is_global_zero),
        "noise": _noise(),
    }


def _noise() -> float:
    return torch.rand(()).item()


class OneIsNaN(Numbers):
    """The second process's loss stops being a number at its third batch; the data say which rows those are."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch["xy"], batch_idx)
        return loss * float("nan") if self.global_rank == 1 and batch_idx == 2 else loss


class Rows(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"xy": numbers()[index], "index": index}


def diverge(folder: str) -> str:
    stop = StopOnDivergence(Path(folder) / "checkpoints", 4, names=[f"{row}.jpg" for row in range(48)])
    try:
        trainer(max_steps=8, callbacks=[stop]).fit(OneIsNaN(), DataLoader(Rows(), batch_size=4))
    except RunError as error:
        return str(error)
    return "went on"


def skip(folder: str) -> State:
    stop, module = StopOnDivergence(Path(folder), 4, on_nan="skip"), OneIsNaN()
    fitted = trainer(max_steps=4, callbacks=[stop])
    fitted.fit(module, DataLoader(Rows(), batch_size=4))
    return state_of(fitted, module) | {"skipped": stop.num_skipped}


def wrapped(*, fit: Any, **settings: Any) -> Any:
    """Call `fit` in a process alone whose modules are put into DistributedDataParallel all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accelerator, "multi_device", True)
        return fit(**settings)


def shard() -> None:
    """Make this process's engine FSDP2, which the launcher would only do on GPUs."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    from vae_ldm.training.engine import new_engine

    new_engine()
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, reshard_after_forward=True, cpu_ram_efficient_loading=False, auto_wrap_policy="NO_WRAP"
    )
    for state in (AcceleratorState._shared_state, PartialState._shared_state):
        state["fsdp_plugin"] = plugin
        state["distributed_type"] = DistributedType.FSDP


def fit_sharded(**settings: Any) -> State:
    shard()
    return fit_numbers(**settings)


def zero(stage: int) -> None:
    """Make this process's engine DeepSpeed, which accelerate would only do on GPUs."""
    import os

    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DeepSpeedPlugin, DistributedType

    from vae_ldm.training.engine import new_engine

    new_engine()
    # A faster all-reduce, which it would compile for minutes. By name: `deepspeed.comm.torch` is torch itself.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    plugin = DeepSpeedPlugin(zero_stage=stage, gradient_accumulation_steps=1)
    plugin.select(_from_accelerator_state=True)
    AcceleratorState._shared_state["deepspeed_plugins"] = {"default": plugin}
    for state in (AcceleratorState._shared_state, PartialState._shared_state):
        state["distributed_type"] = DistributedType.DEEPSPEED


def fit_zero(*, stage: int, **settings: Any) -> State:
    zero(stage)
    return fit_numbers(**settings)


def refused_when_sharded(name: str) -> str:
    from vae_ldm.errors import VaeLdmError

    shard()
    try:
        if name == "manual":
            fit_autoencoder(batch_size=4)
        else:
            fit_numbers(batch_size=4, **{name: True})
    except VaeLdmError as error:
        return str(error)
    return "not refused"


def noise_after_seed() -> float:
    pl.seed_everything(3)

    class Notes(Numbers):
        drawn = 0.0

        def on_train_start(self) -> None:
            super().on_train_start()
            self.drawn = _noise()

    module = Notes()
    trainer(max_steps=1).fit(module, DataLoader(numbers(), batch_size=8))
    return module.drawn


def refusal(name: str) -> str:
    """The line with which something impossible is refused."""
    from vae_ldm.errors import VaeLdmError

    data = numbers()
    try:
        if name == "sampler":
            from torch.utils.data import DistributedSampler

            loader: Any = DataLoader(data, sampler=DistributedSampler(data, 2, 0))
            trainer(max_steps=1).fit(Numbers(), loader)
        elif name == "list":
            trainer(max_steps=1).fit(Numbers(), [data[:4]])
        elif name == "whole batches":
            trainer(max_steps=1).fit(Numbers(), DataLoader(data, batch_size=None))
        elif name == "few":
            trainer(max_steps=1).fit(Numbers(), DataLoader(data, 4), DataLoader(numbers(5), batch_size=8))
    except VaeLdmError as error:
        return str(error)
    return "not refused"
