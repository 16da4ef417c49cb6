"""`accelerate launch` on two processes, whose ranks have done the imports when they begin."""

import json
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import _no_evaluation, nano_networks_in_place
from tests.run.conftest import NANO, ForkedCommand, run_main, speak_into
from tests.support.fork_server import fork

# Python runs a sitecustomize.py before anything else, and so before a rank imports anything of ours.
_IN_EACH_RANK = """
import os
if "RANK" in os.environ:
"""
_IMPORTED_ANEW = textwrap.indent(NANO, "    ")
# The launcher's child stands for the rank: it hands SIGTERM on, and ends as the rank has ended.
_FORKED = """
    import json, signal, socket, sys
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    asked = socket.socket(socket.AF_UNIX)
    asked.connect({address!r})
    asked.sendall(json.dumps([dict(os.environ), sys.orig_argv]).encode() + b"\\n")
    answers = asked.makefile()
    pid = int(answers.readline())
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    code = int(answers.readline())
    if code < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
"""


class Launch(ForkedCommand):
    """`accelerate launch -m vae_ldm` with two processes on the CPU (what is for several GPUs works without any).

    Launcher and ranks are those of the product: the launcher starts each rank, knows how it ended and stops it. A rank
    is a child of the fork server with the environment that the launcher has made; with `forked=False` it is a Python
    that imports everything, for several CPU seconds. `prepare` is called by each forked rank before it begins.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str | Path,
        prepare: Callable[[], None] | None = None,
        forked: bool = True,
    ) -> None:
        assert forked or prepare is None
        self.ranks: dict[int, Any] = {}
        self._prepare = prepare
        self._socket = socket.socket(socket.AF_UNIX)
        address = folder / "ranks.socket"
        address.unlink(missing_ok=True)
        self._socket.bind(str(address))
        self._socket.listen()
        inside = _FORKED.format(address=str(address)) if forked else _IMPORTED_ANEW
        (folder / "sitecustomize.py").write_text(_IN_EACH_RANK + inside)
        super().__init__(str(folder), *arguments, function=_launcher)
        threading.Thread(target=self._serve, daemon=True).start()

    def rank(self, number: int) -> Any:
        """The process of a rank."""
        while number not in self.ranks:
            assert self.poll() is None, self.communicate()[0]
            time.sleep(0.005)
        return self.ranks[number]

    def close(self) -> None:
        """End whatever still runs."""
        self._socket.close()
        for process in (self._process, *self.ranks.values()):
            process.kill()
            process.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._work_for, args=(connection,), daemon=True).start()

    def _work_for(self, connection: socket.socket) -> None:
        environment, command = json.loads(connection.makefile().readline())
        said = command[command.index("vae_ldm") + 1 :]
        rank = fork(speak_into, self._said.name, _rank, environment, self._prepare, *said)
        self.ranks[int(environment["RANK"])] = rank
        with connection:
            connection.sendall(b"%d\n" % rank.pid)
            rank.join()
            connection.sendall(b"%d\n" % rank.exitcode)


def _launcher(folder: str, *arguments: str) -> None:
    from accelerate.commands.accelerate_cli import main

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}"}
    flags = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    flags += ["--dynamo_backend", "no", "--main_process_port", str(port), "-m", "vae_ldm"]
    sys.argv = ["accelerate", *flags, *arguments]
    main()


def _rank(environment: dict[str, str], prepare: Callable[[], None] | None, *arguments: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with nano_networks_in_place(), _no_evaluation():
        if prepare is not None:
            prepare()
        run_main(*arguments)
