"""The command as a user starts it, with the tiny networks, and what a run leaves."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import NANO_AUTOENCODER, NANO_UNET, _no_evaluation, nano_networks_in_place
from tests.support.fork_server import fork
from vae_ldm.cli import main
from vae_ldm.run.folder import RunFolder, Stage
from vae_ldm.training.csv_log import read_csv_log

# The size `tiny` becomes smaller still, and nothing is evaluated.
NANO = f"""
import os
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
from vae_ldm.models import autoencoder, unet
autoencoder.AUTOENCODER_SIZES["tiny"] = autoencoder.AutoencoderSize(*{tuple(NANO_AUTOENCODER)!r})
unet.UNET_SIZES["tiny"] = unet.UNetSize(*{tuple(NANO_UNET)!r})
from vae_ldm.run import stages
stages.run_evaluation_stage = lambda session, autoencoder: None
"""
# What `python -m vae_ldm` does after that.
COMMAND = f"""{NANO}
from vae_ldm.cli import main
main()
"""


class Started(Protocol):
    """A command at work: `subprocess.Popen`, or `ForkedCommand`."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def communicate(self) -> tuple[str, str]: ...


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """The command line in a Python of its own, its output in a pipe; the imports take several CPU seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    # A job in the background, as a test run may be, ignores Ctrl-C and its children inherit that.
    wake = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, wake)


class ForkedCommand:
    """The command line in a process of its own that has done the imports: for a kill -9 that is to hit the work."""

    def __init__(self, *arguments: str | Path, function: Callable[..., None] | None = None) -> None:
        """`function` gets the arguments as strings and calls `main`; by default networks are tiny and nothing is
        evaluated.
        """
        self._said = tempfile.NamedTemporaryFile("r", prefix="vae-ldm-tests-said-")  # noqa: SIM115
        self._process: Any = fork(speak_into, self._said.name, function or _tiny, *map(str, arguments))
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        os.kill(self.pid, sig)

    def communicate(self) -> tuple[str, str]:
        """What was said, output and errors as they came; nothing besides."""
        self._process.join()
        self._said.seek(0)
        return self._said.read(), ""


def speak_into(said: str, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function`; what this process says from here on goes to the end of the file `said`."""
    file = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    function(*arguments)


def _tiny(*arguments: str) -> None:
    with nano_networks_in_place(), _no_evaluation():
        run_main(*arguments)


def run_main(*arguments: str) -> None:
    """What the command `vae-ldm` does, in this process."""
    sys.argv = ["vae-ldm", *arguments]
    main()


def finish(process: Started) -> tuple[int, str]:
    """Exit code, and what was said."""
    output, errors = process.communicate()
    return process.returncode, output + errors


def wait_for(condition: Callable[[], bool], process: Started) -> None:
    """Come back when it holds; fails where the process ends before, however long that takes."""
    while not condition():
        if process.poll() is not None and not condition():
            pytest.fail(f"the process has ended before it came so far: {finish(process)}")
        time.sleep(0.005)


def assert_same_weights(one: Path, other: Path) -> None:
    """Every safetensors file at or below one folder has its bit-identical counterpart in the other."""
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    for file in files:
        left, right = load_file(one / file), load_file(other / file)
        assert left.keys() == right.keys()
        different = [name for name in left if not torch.equal(left[name], right[name])]
        assert not different, f"{file}: {len(different)} of {len(left)} tensors differ, {different[0]} among them"


def assert_same_run(one: RunFolder, other: RunFolder, *stages: Stage) -> None:
    """Weights, curves and facts of the stages are the same to the bit; by default those of both trainings."""
    for stage in stages or ("autoencoder", "diffusion"):
        for folder in {"autoencoder": ("autoencoder",), "diffusion": ("latents", "pipeline")}[stage]:
            assert_same_weights(one.path / folder, other.path / folder)
        assert read_csv_log(one.log(stage)) == read_csv_log(other.log(stage))
        facts, expected = ({**(run.finished(stage) or {})} for run in (one, other))
        assert facts.pop("seconds") < 100
        assert expected.pop("seconds") < 100
        assert facts == expected
