"""A repository through the front door, from a Hub on loopback."""

from pathlib import Path

import numpy as np
import torch

import vae_ldm
from tests.hub.server import HubServer
from vae_ldm.run.folder import RunFolder

PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_a_pushed_pipeline_is_called_by_its_name(hub: HubServer, trained_run: RunFolder, tmp_path: Path) -> None:
    folder = trained_run.pipeline
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.add("acme/tins", files)
    pipeline, local = vae_ldm.pipeline("acme/tins"), vae_ldm.pipeline(folder)
    assert all(torch.equal(*pair) for pair in zip(pipeline.unet.parameters(), local.unet.parameters(), strict=True))
    one = vae_ldm.load_autoencoder("hf://acme/tins", subfolder="vae", cache_dir=tmp_path / "one")
    assert torch.equal(one.encode(PHOTO), vae_ldm.load_autoencoder(folder).encode(PHOTO))
    assert not list((tmp_path / "one").rglob("unet"))
