"""Accelerate underneath Lightning: `Trainer(strategy="accelerate")` runs on whatever `accelerate launch` has set up.

Lightning owns the loop, the hooks and the checkpoints; one `Accelerator` owns processes, device, wrapping, the sharing
out of data and every collective. Nothing else imports accelerate.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType, broadcast_object_list, set_seed
from lightning_fabric.utilities.optimizer import _optimizers_to_device
from lightning_fabric.utilities.rank_zero import rank_zero_only as fabric_rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins import CheckpointIO, Precision
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.distributed import ReduceOp
from torch.optim import Optimizer
from torch.utils.data import DataLoader, DistributedSampler

from vae_ldm.errors import VaeLdmError
from vae_ldm.text import counted
from vae_ldm.training.deepspeed_engine import Zero
from vae_ldm.training.engine import new_engine, sharding_of
from vae_ldm.training.engine_plugins import EngineEnvironment, engine_precision
from vae_ldm.training.gradient_average import GradientAverage
from vae_ldm.training.shared_loader import SharedLoader, shares_out_itself


class AccelerateStrategy(ParallelStrategy):
    """Trains on the processes that `accelerate launch` has started, or on one where nothing has.

    A batch size is that of one process. With automatic optimisation the module is wrapped by what the launcher names:
    DistributedDataParallel or FSDP2. With manual optimisation, of one optimizer or several, it stays unwrapped and
    gradients are averaged after each backward pass, before anything reads them; sharded engines refuse it.
    Validation calls the module directly, so processes may have different numbers of batches, and no picture counts
    twice.

    `ddp` goes to DistributedDataParallel, `find_unused_parameters=True` for instance. `data_seed` is that of the
    order of training data, by default what `seed_everything` was given.
    """

    strategy_name = "accelerate"

    def __init__(
        self,
        *,
        engine: Accelerator | None = None,
        data_seed: int | None = None,
        timeout: timedelta | None = None,
        checkpoint_io: CheckpointIO | None = None,
        **ddp: Any,
    ) -> None:
        self.engine = engine or new_engine(timeout=timeout, **ddp)
        self.sharding = sharding_of(self.engine)
        super().__init__(
            parallel_devices=[self.root_device],
            cluster_environment=EngineEnvironment(self.engine),
            checkpoint_io=checkpoint_io,
        )
        self.data_seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if data_seed is None else data_seed
        self.average_gradients = GradientAverage(lambda tensor: self.engine.reduce(tensor, "mean"))
        self._gradients_stay_local = False

    # --- where this process stands ------------------------------------------------------------------------------------

    @property
    def is_distributed(self) -> bool:
        """True: without it Lightning ignores `self.log(sync_dist=True)`."""
        return True

    @property
    def root_device(self) -> torch.device:
        # Lightning wants a GPU's number, which accelerate leaves out of a process alone, and none for a CPU.
        device = self.engine.device
        return torch.device("cpu") if device.type == "cpu" else torch.device(device.type, device.index or 0)

    @property
    def precision_plugin(self) -> Precision:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, precision_plugin: Precision | None) -> None:
        self._precision_plugin = precision_plugin and engine_precision(precision_plugin, self.root_device)

    def set_world_ranks(self) -> None:
        """Tell Lightning's `rank_zero_only` functions who they are."""
        for function in (rank_zero_only, fabric_rank_zero_only):
            function.rank = self.global_rank  # type: ignore[attr-defined]

    # --- setting up ---------------------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        super().setup_environment()
        self.set_world_ranks()
        assert self.lightning_module is not None
        # Lightning would put in a DistributedSampler, which pads: the sharing out is done in `process_dataloader`.
        self.lightning_module.trainer._accelerator_connector.use_distributed_sampler = False

    def setup(self, trainer: Trainer) -> None:
        assert self.accelerator is not None
        assert self.lightning_module is not None
        self.accelerator.setup(trainer)
        fitting = trainer.state.fn == TrainerFn.FITTING
        if self.sharding is not None:
            self.sharding.check(trainer)
        if fitting and self._layer_sync is not None:
            self._lightning_module = cast("LightningModule", self._layer_sync.apply(self.lightning_module))
        self.model = self.precision_plugin.convert_module(cast("LightningModule", self.lightning_module))
        self.model_to_device()
        if fitting:
            self.setup_optimizers(trainer)  # before the wrapping: FSDP2 swaps the parameters inside them
            _optimizers_to_device(self.optimizers, self.root_device)
        self._wrap(fitting=fitting)
        self.setup_precision_plugin()
        if fitting and self.world_size > 1 and "PL_GLOBAL_SEED" in os.environ:
            # All have built the same weights from the seed; from here on each must draw noise of its own.
            set_seed(int(os.environ["PL_GLOBAL_SEED"]), device_specific=True)

    def _wrap(self, *, fitting: bool) -> None:
        module = self.lightning_module
        assert module is not None
        if self.sharding is not None:
            context = self.precision_plugin.train_step_context
            self.model, self.optimizers = self.sharding.wrap(module, self.optimizers, context)
        elif fitting and module.automatic_optimization and self.engine.distributed_type != DistributedType.NO:
            self.model = self.engine.prepare_model(module)
        else:
            self._send_from_first([*module.parameters(), *module.buffers()])

    def model_to_device(self) -> None:
        assert self.model is not None
        self.model.to(self.root_device)

    def teardown(self) -> None:
        self.model = self.lightning_module
        if self.lightning_module is not None and hasattr(self.lightning_module, "_is_accelerate_prepared"):
            del self.lightning_module._is_accelerate_prepared  # or the next fit would not be wrapped
        self.engine.free_memory()
        if self.sharding is not None:
            self._reset_optimizers_and_schedulers()
            if self.lightning_module is not None and not self.sharding.is_whole(self.lightning_module):
                return  # after an error: shards cannot be moved, and making them whole takes all processes
        super().teardown()

    # --- steps --------------------------------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        assert self.model is not None
        # Under DeepSpeed the context is inside the wrapped module.
        with nullcontext() if isinstance(self.sharding, Zero) else self.precision_plugin.train_step_context():
            if self.model is self.lightning_module and self.sharding is None:
                return self.lightning_module.training_step(*args, **kwargs)
            return self._forward_redirection(self.model, self.lightning_module, "training_step", *args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._evaluate("validation_step", self.precision_plugin.val_step_context, *args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._evaluate("test_step", self.precision_plugin.test_step_context, *args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._evaluate("predict_step", self.precision_plugin.predict_step_context, *args, **kwargs)

    def _evaluate(self, name: str, context: Any, *args: Any, **kwargs: Any) -> Any:
        # The wrapper's forward is collective, and processes may have different numbers of batches.
        with context():
            return getattr(self.lightning_module, name)(*args, **kwargs)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(self.sharding, Zero):
            return super().backward(closure_loss, optimizer, *args, **kwargs)
        assert self.lightning_module is not None
        loss = self.precision_plugin.pre_backward(closure_loss, self.lightning_module)
        cast("Any", self.model).backward(loss)
        return self.precision_plugin.post_backward(loss, self.lightning_module)

    def optimizer_step(self, optimizer: Optimizer, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        if not isinstance(self.sharding, Zero):
            return super().optimizer_step(optimizer, closure, model, **kwargs)
        module = cast("LightningModule", model or self.lightning_module)
        result = self.precision_plugin._wrap_closure(module, optimizer, closure)
        cast("Any", self.model).step()
        return result

    def post_backward(self, closure_loss: Tensor) -> None:
        module = self.lightning_module
        assert module is not None
        if self.world_size > 1 and not module.automatic_optimization and not self._gradients_stay_local:
            self.average_gradients(module.parameters())

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Let gradients add up without sending them: for all but the last batch of an accumulated step."""
        self._gradients_stay_local = True
        try:
            with self._without_sync():
                yield
        finally:
            self._gradients_stay_local = False

    def _without_sync(self) -> AbstractContextManager[None]:
        assert self.model is not None
        if self.sharding is not None:
            return self.sharding.without_sync(self.model)
        return self.engine.no_sync(self.model) if self.model is not self.lightning_module else nullcontext()

    def on_train_end(self) -> None:
        assert self.lightning_module is not None
        self._send_from_first(self.lightning_module.buffers())
        if self.sharding is not None:
            self.sharding.make_whole(self.lightning_module)

    def on_validation_start(self) -> None:
        self._before_evaluation()

    def on_validation_end(self) -> None:
        self._after_evaluation()

    def on_test_start(self) -> None:
        self._before_evaluation()

    def on_predict_start(self) -> None:
        self._before_evaluation()

    def _before_evaluation(self) -> None:
        assert self.lightning_module is not None
        self._send_from_first(self.lightning_module.buffers())
        if self.sharding is not None:
            self.sharding.before_evaluation(self.lightning_module)

    def _after_evaluation(self) -> None:
        assert self.lightning_module is not None
        if self.sharding is not None:
            self.sharding.after_evaluation(self.lightning_module)

    # --- collectives --------------------------------------------------------------------------------------------------

    def reduce(self, tensor: Any, group: Any = None, reduce_op: ReduceOp | str | None = "mean") -> Any:
        """The tensor over all processes; an integer's mean is a float. What is no tensor comes back as it is."""
        if not isinstance(tensor, Tensor) or self.world_size == 1:
            return tensor
        name = "mean" if reduce_op is None else str(reduce_op).rpartition(".")[2].lower()
        name = {"avg": "mean"}.get(name, name)
        if name == "mean" and not tensor.is_floating_point():
            tensor = tensor.float()
        if name in ("mean", "sum") and group is None:
            return self.engine.reduce(tensor, name)
        result = tensor.clone()
        torch.distributed.all_reduce(result, getattr(ReduceOp, {"mean": "SUM"}.get(name, name.upper())), group=group)
        return result / torch.distributed.get_world_size(group) if name == "mean" else result

    def barrier(self, name: str | None = None) -> None:
        self.engine.wait_for_everyone()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return broadcast_object_list([obj], from_process=src)[0]

    def _send_from_first(self, tensors: Any) -> None:
        if self.world_size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), 0)

    # --- data ---------------------------------------------------------------------------------------------------------

    def process_dataloader(self, dataloader: object) -> object:
        """This process's share: whole batches in turn, made even for training, never for evaluation."""
        assert self.lightning_module is not None
        training = self.lightning_module.trainer.training
        if not isinstance(dataloader, DataLoader):
            if self.world_size > 1:
                raise VaeLdmError(f"a {type(dataloader).__name__} cannot be shared out; give the Trainer a DataLoader")
            return dataloader
        if isinstance(dataloader.sampler, DistributedSampler):
            raise VaeLdmError("the strategy shares the data out; leave the DistributedSampler out")
        if shares_out_itself(dataloader, self.world_size) or (not training and self.world_size == 1):
            return dataloader
        if self.world_size > 1 and dataloader.batch_size is None and dataloader.batch_sampler is None:
            raise VaeLdmError(
                "whole batches (batch_size=None) cannot be shared out; give the sampler or the data set "
                "`num_replicas`, the number of processes, where it shares them out itself"
            )
        shared = prepare_data_loader(
            dataloader,
            num_processes=self.world_size,
            process_index=self.global_rank,
            even_batches=training,
            use_seedable_sampler=True,
            data_seed=self.data_seed,
        )
        num_batches = _length(dataloader)
        if not training and num_batches is not None and num_batches < self.world_size:
            raise VaeLdmError(
                f"{counted(num_batches, 'batch')} cannot be shared by {self.world_size} processes; lower the batch size"
            )
        return SharedLoader(shared, seed=self.data_seed, skip=skip_first_batches)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return self.sharding is not None and self.sharding.restores_after_setup

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        if self.sharding is not None:
            return self.sharding.weights(self.lightning_module)
        self._send_from_first(self.lightning_module.buffers())
        return super().lightning_module_state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        if self.sharding is not None:
            self.sharding.load_weights(self.lightning_module, checkpoint["state_dict"], strict=strict)
        else:
            super().load_model_state_dict(checkpoint, strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if self.sharding is None:
            return super().optimizer_state(optimizer)
        assert self.lightning_module is not None
        return self.sharding.optimizer_state(self.lightning_module, getattr(optimizer, "_optimizer", optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        if self.sharding is None:
            super().load_optimizer_state_dict(checkpoint)
            return
        assert self.lightning_module is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            self.sharding.load_optimizer_state(self.lightning_module, optimizer, state)


def _length(loader: DataLoader[Any]) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
