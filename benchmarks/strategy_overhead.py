"""Steps a second of one small training under a bare torch loop, a bare Accelerator, Lightning's own strategy and ours.

    OMP_NUM_THREADS=1 python benchmarks/strategy_overhead.py [--steps 60] [--rounds 7] [--batch-size 8]
    OMP_NUM_THREADS=1 python benchmarks/strategy_overhead.py --processes 2

Without `--processes` every round runs each contestant once, in an order that alternates (A B C D, D C B A), and a row
shows the median of the rounds' ratios of time a step to Lightning's own, with the smallest and the largest; time is
this process's CPU time, which another job disturbs least, or on a GPU the wall's. With `--processes N` the
same training runs on one process and on N, each with the whole batch, and the row is the ratio of pictures a second by
the wall: N would be perfect. A step is forward, backward and AdamW of a small autoencoder at 32 px.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import vae_ldm  # noqa: F401
from vae_ldm.models.autoencoder import new_autoencoder
from vae_ldm.run.session import quieten_training

WARM_UP = 5


class Same(IterableDataset[Tensor]):
    """One batch for ever: no data loading is measured."""

    num_replicas = int(os.environ.get("WORLD_SIZE", "1"))  # each process has it, so there is nothing to share out

    def __init__(self, batch: Tensor) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield self.batch


def clock() -> float:
    """Seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.perf_counter() if "WORLD_SIZE" in os.environ else time.process_time()


class Clock(Callback):
    def __init__(self) -> None:
        self.start = self.stop = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == WARM_UP:
            self.start = clock()
        self.stop = clock() if trainer.global_step >= trainer.max_steps else 0.0


class Small(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.autoencoder = new_autoencoder(
            "tiny", downsample_factor=4, latent_channels=4, image_channels=3, image_size=(32, 32)
        )

    def training_step(self, batch: Tensor, batch_idx: int = 0) -> Tensor:
        posterior = self.autoencoder.encode(batch).latent_dist
        return (self.autoencoder.decode(posterior.mode()).sample - batch).abs().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)


def loop(module: Any, optimizer: Any, backward: Callable[[Tensor], Any], batch: Tensor, steps: int) -> float:
    start = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            start = clock()
        loss = module(batch)
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
    return clock() - start


def bare_torch(batch: Tensor, steps: int) -> float:
    module = Small()
    module.forward = module.training_step  # type: ignore[method-assign]
    return loop(module, module.configure_optimizers(), Tensor.backward, batch, steps)


def bare_accelerator(batch: Tensor, steps: int) -> float:
    from vae_ldm.training.engine import new_engine

    engine, module = new_engine(), Small()
    module.forward = module.training_step  # type: ignore[method-assign]
    prepared, optimizer = engine.prepare(module, module.configure_optimizers())
    seconds = loop(prepared, optimizer, engine.backward, batch, steps)
    engine.free_memory()
    return seconds


def by_trainer(strategy: str) -> Callable[[Tensor, int], float]:
    def train(batch: Tensor, steps: int) -> float:
        timer = Clock()
        trainer = Trainer(
            strategy=strategy,
            accelerator="auto",
            devices="auto" if strategy == "accelerate" else 1,
            max_steps=WARM_UP + steps,
            callbacks=[timer],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Small(), DataLoader(Same(batch), batch_size=None))
        return timer.stop - timer.start

    return train


CONTESTANTS: dict[str, Callable[[Tensor, int], float]] = {
    "Lightning, its own single-device strategy": by_trainer("auto"),
    "Lightning, strategy accelerate": by_trainer("accelerate"),
    "a bare torch loop": bare_torch,
    "a bare Accelerator loop": bare_accelerator,
}


def compare(batch: Tensor, steps: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        order = list(CONTESTANTS) if number % 2 == 0 else list(CONTESTANTS)[::-1]
        for name in order:
            seconds[name].append(CONTESTANTS[name](batch, steps))
    reference = next(iter(CONTESTANTS))
    print(f"{'':45}ms a step   time beside Lightning's own")
    for name, own in seconds.items():
        ratios = [one / other for one, other in zip(own, seconds[reference], strict=True)]
        middle = 1000 * statistics.median(own) / steps
        print(f"{name:45}{middle:9.2f}   {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")


def scale(arguments: argparse.Namespace) -> None:
    """One process against N, by the wall, in turn."""
    found: dict[int, list[float]] = {1: [], arguments.processes: []}
    for _ in range(arguments.rounds):
        for count, times in found.items():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            started = []
            for rank in range(count):
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
                environment = {name: str(value) for name, value in place.items()}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                command = [sys.executable, __file__, "--one", "--steps", str(arguments.steps)]
                command += ["--batch-size", str(arguments.batch_size)]
                started.append(
                    subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
                )
            outputs = [process.communicate()[0] for process in started]
            assert all(process.returncode == 0 for process in started)
            times.append(max(float(output.splitlines()[-1]) for output in outputs))
    pictures = {
        count: [count * arguments.batch_size * arguments.steps / time for time in times]
        for count, times in found.items()
    }
    for count, rates in pictures.items():
        print(f"{count} process{'es' * (count > 1)}: {statistics.median(rates):.1f} pictures/s")
    ratios = [many / one for one, many in zip(*pictures.values(), strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quieten_training()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = torch.rand(arguments.batch_size, 3, 32, 32, device=device)
    if arguments.processes:
        scale(arguments)
    elif arguments.one:
        print(by_trainer("accelerate")(batch, arguments.steps))
    else:
        compare(batch, arguments.steps, arguments.rounds)


if __name__ == "__main__":
    main()
