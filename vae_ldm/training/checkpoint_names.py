"""Which files of a folder are checkpoints, by their names. No torch in here."""

import re
from pathlib import Path

BEST_CHECKPOINT = "best.ckpt"
_OF_A_STEP = re.compile(r"step=[0-9]+\.ckpt", re.ASCII)


def run_checkpoints(checkpoint_dir: Path) -> list[Path]:
    """What RunCheckpoint has left, the newest first; a copy that a file manager made is not among them."""
    found = (path for path in checkpoint_dir.glob("step=*.ckpt") if _OF_A_STEP.fullmatch(path.name))
    return sorted(found, key=step_in_name, reverse=True)


def step_in_name(path: Path) -> int:
    """The step of `step=1200.ckpt`."""
    return int(path.stem.removeprefix("step="))
