"""A repository through the front door, from a Hub on loopback."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vae_ldm
from tests.hub.server import HubServer
from tests.run.start_points import save_stable_diffusion
from vae_ldm.errors import HubError
from vae_ldm.hub import pull
from vae_ldm.models.lora import LoraBase, add_lora, save_lora
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


def test_the_base_that_a_lora_names_is_not_asked_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    hub.add("acme/base", {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")})
    unet = vae_ldm.pipeline(folder).unet
    settings = {"rank": 2, "alpha": None, "dropout": 0.0, "target_modules": ["to_q"]}
    add_lora(unet, **settings, base=LoraBase("acme/base", None))  # type: ignore[arg-type]
    lora = save_lora(unet, tmp_path / "lora")
    with pytest.raises(HubError) as caught:
        vae_ldm.pipeline(lora.parent)
    assert str(caught.value) == (
        f"{lora}: its base acme/base is not on this machine, and is not downloaded automatically; "
        "run `vae-ldm pull acme/base` once"
    )
    assert not hub.requests
    pull("acme/base")
    asked = hub.requests.total()
    assert vae_ldm.pipeline(lora.parent).unet.peft_config
    assert hub.requests.total() == asked
