"""A folder that may not be looked into, for whoever runs the tests: root may look into every folder."""

import os
from pathlib import Path

import pytest

from vae_ldm.data import listing


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system refuse to list `folder`, as it refuses it to other users."""
    scandir = os.scandir

    def refuse(place: str) -> object:
        if Path(place) == folder:
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    listing._told.clear()
