"""The autoencoder that comes with the package: its name, its files, and what is said of it."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open

import vae_ldm
from tests.support.small_networks import save_autoencoder
from tests.support.starters import SIDE, save_starter
from vae_ldm import starter
from vae_ldm.errors import VaeLdmError, WeightsError
from vae_ldm.opening import settings_of, usual_psnr
from vae_ldm.paths import check_model, check_run, check_weights_within
from vae_ldm.weights import autoencoder_folder, local_folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small starter in the place of the package's, and an empty current folder."""
    monkeypatch.setattr(starter, "STARTER_FOLDER", save_starter(tmp_path / "package"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return starter.STARTER_FOLDER


def test_the_packages_own_is_an_f8c16_in_float16_of_at_most_4_mb():
    weights = starter.STARTER_FOLDER / starter.WEIGHTS_FILE
    assert weights.stat().st_size <= 4_000_000
    with safe_open(weights, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118  # it is no mapping
    autoencoder = vae_ldm.load_autoencoder("starter")
    assert autoencoder.autoencoder.dtype == torch.float32
    latents = autoencoder.encode(np.full((64, 48, 3), 128, np.uint8))
    assert latents.shape == (1, 16, 8, 6)
    (image,) = autoencoder.decode(latents)
    assert image.size == (48, 64)


def test_the_packages_own_tells_its_photos_its_size_and_its_psnr():
    settings = starter.starter_settings()
    assert settings.recipe == "starter-f8c16"
    assert settings.num_psnr_photos > 0
    assert (starter.STARTER_FOLDER / starter.DIGESTS_FILE).stat().st_size == 16 * settings.num_photos > 0
    found = settings_of("starter")
    assert (found.run, found.image_size, found.resize) == (None, settings.image_size, settings.resize)
    assert usual_psnr("starter") == settings.psnr


def test_the_notice_names_author_place_and_licence_of_every_set():
    notice = (starter.STARTER_FOLDER / "NOTICE").read_text()
    sections = re.split(r"^## ", notice, flags=re.MULTILINE)[1:]
    assert len(sections) >= 3
    for section in sections:
        assert re.search(r"^Authors?: ", section, re.MULTILINE), section
        assert re.search(r"^Published (at|in): ", section, re.MULTILINE), section
        assert re.search(r"^Licence: ", section, re.MULTILINE), section
    assert "license: apache-2.0" in (starter.STARTER_FOLDER / "README.md").read_text()


def test_the_name_opens_the_packages_and_a_folder_of_that_name_comes_first(small, tmp_path):
    assert autoencoder_folder("starter") == small
    assert vae_ldm.load_autoencoder("starter").autoencoder.config.sample_size == SIDE
    assert starter.model_name(str(small)) == starter.model_name("starter") == "starter"
    save_autoencoder(tmp_path / "here" / "starter")
    assert str(local_folder("starter")) == "starter"
    assert not starter.is_starter("starter")
    assert starter.model_name("starter") == "./starter"
    assert starter.is_starter(str(small))
    assert settings_of("starter").image_size is None
    assert usual_psnr("starter") is None
    shutil.rmtree(tmp_path / "here" / "starter")
    (tmp_path / "here" / "starter").write_text("a file comes first as well")
    assert not starter.is_starter("starter")


def test_a_folder_of_that_name_that_holds_no_model_says_how_to_come_by_the_packages(small, tmp_path):
    (tmp_path / "here" / "starter").mkdir()
    with pytest.raises(WeightsError, match=r"^starter: holds no model; .*; leave --model out for the starter that "):
        check_weights_within("starter")


def test_it_draws_nothing_and_says_what_to_train(small):
    said = r"^starter: is an autoencoder, and holds no diffusion model to draw with; train one .* `vae-ldm train \S+ "
    for ask in (vae_ldm.pipeline, lambda name: check_weights_within(name, "pipeline")):
        with pytest.raises(WeightsError, match=said) as told:
            ask("starter")
    words = str(told.value)
    assert "from_pretrained: starter" in words
    check_weights_within("starter")
    with pytest.raises(VaeLdmError, match="starter: comes with vae_ldm and is no run"):
        check_run(local_folder("starter"))


@pytest.mark.parametrize("name", ["startr", "Starter", "starters"])
def test_a_name_nearly_like_it_is_told(small, name):
    with pytest.raises(WeightsError, match=f"^{name}: no such folder; did you mean starter"):
        check_model(name)


def test_photos_are_known_by_the_first_16_bytes_of_their_digest(tmp_path, monkeypatch):
    known, other = (hashlib.sha256(text).hexdigest() for text in (b"known", b"other"))
    monkeypatch.setattr(starter, "STARTER_FOLDER", save_starter(tmp_path / "package", learned=[known, known]))
    assert starter.starter_settings().num_photos == 1
    assert starter.has_learned(known)
    assert starter.has_learned(known[:32] + "f" * 32)
    assert not starter.has_learned(other)
    assert not starter.has_learned(None)


def test_files_that_are_missing_or_damaged_are_one_line(small):
    changed = json.loads((small / starter.SETTINGS_FILE).read_text()) | {"psnr": 90.0}
    (small / starter.SETTINGS_FILE).write_text(json.dumps(changed))
    with pytest.raises(WeightsError, match=r"starter\.json: is damaged .*; install vae_ldm again"):
        starter.starter_settings()
    (small / starter.WEIGHTS_FILE).unlink()
    for ask in (check_model, vae_ldm.load_autoencoder, settings_of):
        with pytest.raises(WeightsError, match=r"^starter: diffusion_pytorch_model.safetensors is missing from"):
            ask("starter")


def test_a_list_of_photos_that_is_not_the_one_that_was_written_is_one_line(small):
    (small / starter.DIGESTS_FILE).write_bytes(bytes(16))
    with pytest.raises(WeightsError, match=r"photos\.digests: is damaged"):
        starter.has_learned("0" * 64)
    (small / starter.DIGESTS_FILE).unlink()
    with pytest.raises(WeightsError, match=r"^starter: photos\.digests is missing"):
        starter.has_learned("0" * 64)
