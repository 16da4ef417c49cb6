"""What no test may depend on, made the same for all: shell, home folder, terminal, time zone, umask, current folder.

Imported before anything else: libraries read much of it once, when they are imported.
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_HOME = tempfile.TemporaryDirectory(prefix="vae-ldm-tests-home-")
EMPTY_FOLDER = tempfile.TemporaryDirectory(prefix="vae-ldm-tests-here-")

# Of the terminal, of caches and tokens, of a launcher that has started this, of the command line's own switches.
_UNSET = {
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLORTERM"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "LANGUAGE", "TORCH_HOME", "VAE_LDM_TRACEBACK"),
    *("PYTHONSTARTUP", "PYTHONIOENCODING", "PYTHONWARNINGS"),
    "PYTHONDONTWRITEBYTECODE",  # each Python that a test starts would compile all of vae_ldm again
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}
_PREFIXES = ("ACCELERATE_", "XDG_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_", "WANDB_", "MLFLOW_", "COMET_", "LC_")

# Once, in the process that was started by hand: those that tests start keep the place that they were given.
if "VAE_LDM_TEST_SURROUNDINGS" not in os.environ:
    for name in list(os.environ):
        if name in _UNSET or name.startswith(_PREFIXES):
            del os.environ[name]
    os.environ |= {"HOME": _HOME.name, "TERM": "xterm-256color", "LANG": "C.UTF-8", "TZ": "UTC"}
    os.environ["VAE_LDM_TEST_SURROUNDINGS"] = "1"
# A command in the background ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
time.tzset()
os.umask(0o022)


def _at_once(descriptor: int) -> None:
    """In place of `os.fsync`: a kill -9 loses nothing that the system has, and no test cuts the power.

    A training of a few steps would wait for the disk dozens of times, longer than it computes.
    """


os.fsync = _at_once
# The checkout comes first for the processes that tests start, wherever they start them.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
