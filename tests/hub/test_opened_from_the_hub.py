"""A repository through the front door, from a Hub on loopback."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vae_ldm
from tests.hub.server import HubServer
from vae_ldm.errors import HubError
from vae_ldm.run.folder import RunFolder

PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_a_pushed_pipeline_is_called_by_its_name(hub: HubServer, trained_run: RunFolder, tmp_path: Path) -> None:
    folder = trained_run.pipeline
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.add("acme/tins", files)
    pipeline, local = vae_ldm.pipeline("acme/tins"), vae_ldm.pipeline(folder)
    assert all(torch.equal(*pair) for pair in zip(pipeline.unet.parameters(), local.unet.parameters(), strict=True))
    one = vae_ldm.load_autoencoder("hf://acme/tins", cache_dir=tmp_path / "one")
    expected = vae_ldm.load_autoencoder(folder).encode(PHOTO)
    assert torch.equal(one.encode(PHOTO), expected)
    assert not list((tmp_path / "one").rglob("unet"))

    hub.add("acme/alone", {name.removeprefix("vae/"): files[name] for name in files if name.startswith("vae/")})
    assert torch.equal(vae_ldm.load_autoencoder("acme/alone").encode(PHOTO), expected)
    with pytest.raises(HubError, match="acme/absent: there is no such repository"):
        vae_ldm.load_autoencoder("acme/absent")
