"""A Hub on loopback for every test of this folder, its client without the waits between tries."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from tests.hub.environment import HUB_PORT
from tests.hub.server import HubServer


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again at once."""
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time.sleep", lambda seconds: None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The server, a cache of the test's own, and no token."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer(HUB_PORT) as server:
        yield server
    close_session()  # a connection that is kept alive would still speak to this server in the next test


@pytest.fixture
def anna(monkeypatch: pytest.MonkeyPatch) -> str:
    """Logged in as somebody who may write to anna/ and acme/."""
    monkeypatch.setenv("HF_TOKEN", "hf_anna")
    return "hf_anna"
