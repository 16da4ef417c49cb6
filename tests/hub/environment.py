"""Imported before the Hub's client, which reads these once.

No test can reach the real Hub, nor read or write what is the user's.
"""

import os
import socket
import tempfile

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    HUB_PORT = free.getsockname()[1]
HF_HOME = tempfile.TemporaryDirectory(prefix="vae-ldm-tests-hf-")

for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
    os.environ.pop(name, None)
os.environ |= {
    "HF_HOME": HF_HOME.name,
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
