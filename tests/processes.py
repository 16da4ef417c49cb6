"""Real processes that stand ready for any number of tests: two joined by gloo on the CPU, or one that has the GPU."""

import importlib
import multiprocessing
import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from tests.support.fork_server import fork

_PATIENCE_SECONDS = 240


class Processes:
    """`processes(function, x=1)` calls a module's function in each of them and gives what each one returned."""

    def __init__(self, count: int = 2, environment: dict[str, str] | None = None, *, by_launcher: bool = True) -> None:
        self.count = count
        self.environment = environment or {}
        self.by_launcher = by_launcher
        self._pipes: list[Connection] = []
        self._workers: list[Any] = []

    def __call__(self, function: Any, **kwargs: Any) -> list[Any]:
        if not self._workers:
            self._start()
        for pipe in self._pipes:
            pipe.send((function.__module__, function.__qualname__, kwargs))
        results = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(_PATIENCE_SECONDS):
                self.stop()
                raise TimeoutError(f"rank {rank} does not answer")
            try:
                failed, result = pipe.recv()
            except EOFError:
                failed, result = True, "it has ended"
            if failed:
                self.stop()  # the others may wait for it for ever
                raise AssertionError(f"rank {rank}: {result}")
            results.append(result)
        return results

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(self.count):
            ours, theirs = multiprocessing.Pipe()
            place = launched(rank, self.count, port) if self.by_launcher else {}
            if self.environment:  # of a GPU: libraries look at it while they are imported
                worker: Any = multiprocessing.get_context("spawn").Process(
                    target=_work, args=(theirs, place | self.environment)
                )
                worker.start()
            else:
                worker = fork(_work, theirs, place)
            self._pipes.append(ours)
            self._workers.append(worker)

    def stop(self) -> None:
        """End them; the next call starts new ones."""
        for worker in self._workers:
            worker.kill()
            worker.join()
        self._workers, self._pipes = [], []


def launched(rank: int, count: int, port: int) -> dict[str, str]:
    """What `accelerate launch` puts into the environment of a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def _work(pipe: Connection, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    while True:
        module, name, kwargs = pipe.recv()
        os.environ.pop("PL_GLOBAL_SEED", None)  # the call before may have left it: see no_seed_of_another_test
        try:
            function: Any = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
            pipe.send((False, function(**kwargs)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))


@contextmanager
def two_processes() -> Iterator[Processes]:
    processes = Processes()
    try:
        yield processes
    finally:
        processes.stop()
