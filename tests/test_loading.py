"""The public face: what `import vae_ldm` offers, and the two calls through which users come in."""

import doctest
import importlib
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import vae_ldm
from tests.conftest import nano_run
from vae_ldm.errors import VaeLdmError, WeightsError
from vae_ldm.pipelines.latent_diffusion import LatentDiffusionPipeline

PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_every_public_name_is_listed_in_order_and_found():
    assert vae_ldm.__all__ == sorted(vae_ldm.__all__)
    assert set(vae_ldm._HOMES) == set(vae_ldm.__all__)
    assert set(vae_ldm.__all__) <= set(dir(vae_ldm))
    for name in vae_ldm.__all__:
        assert getattr(vae_ldm, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'pipelnie'"):
        vae_ldm.pipelnie  # noqa: B018


def test_importing_costs_no_torch():
    code = "import sys, vae_ldm; vae_ldm.WeightsError; print({'torch', 'diffusers', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_public_thing_says_what_it_is():
    for name in vae_ldm.__all__:
        public = getattr(vae_ldm, name)
        assert public.__doc__, name
        members = vars(public).items() if isinstance(public, type) else ()
        for member, value in members:
            if not member.startswith("_") and callable(value):
                assert value.__doc__, f"{name}.{member}"


def test_a_pipeline_whose_swap_was_cut_off_is_put_in_its_place(trained_run, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "run")
    pipeline = tmp_path / "run" / "pipeline"
    pipeline.rename(tmp_path / "run" / ".pipeline.vae_ldm-new")
    (tmp_path / "run" / ".pipeline.vae_ldm-old").mkdir()
    assert isinstance(vae_ldm.pipeline(tmp_path / "run"), LatentDiffusionPipeline)
    assert not list((tmp_path / "run").glob(".pipeline*"))

    pipeline.rename(tmp_path / "run" / ".pipeline.vae_ldm-new")
    assert vae_ldm.load_autoencoder(pipeline).autoencoder.config.latent_channels > 0


@pytest.fixture(scope="module")
def claims_run(tmp_path_factory):
    """runs/claims-32 in an empty folder, as the examples find it: untrained all but in name."""
    folder = tmp_path_factory.mktemp("examples")
    nano_run(
        folder / "runs",
        name="claims-32",
        data__image_size=32,
        autoencoder__latent_channels=8,
        autoencoder__trainer__max_steps=1,
        diffusion__trainer__max_steps=1,
    )
    return folder


@pytest.mark.parametrize("module", ["loading", "pipelines.image_autoencoder", "pipelines.latent_diffusion"])
def test_its_examples_run(module, claims_run, monkeypatch):
    monkeypatch.chdir(claims_run)
    result = doctest.testmod(importlib.import_module(f"vae_ldm.{module}"), raise_on_error=False)
    assert result.attempted > 3
    assert result.failed == 0


def test_the_examples_of_push_and_pull_run(claims_run, hub, anna, monkeypatch):
    monkeypatch.chdir(claims_run)
    for module, attempted in (("run.push", 4), ("hub.download", 3)):
        result = doctest.testmod(importlib.import_module(f"vae_ldm.{module}"), raise_on_error=False)
        assert (result.failed, result.attempted) == (0, attempted)


def test_a_run_its_export_and_its_autoencoder_are_opened(trained_run, monkeypatch):
    opened = vae_ldm.pipeline(trained_run.path)
    assert isinstance(opened, LatentDiffusionPipeline)
    assert vae_ldm.pipeline(str(trained_run.pipeline)).unet.dtype == torch.float32
    sources = (trained_run.path, trained_run.pipeline, trained_run.autoencoder)
    latents = [vae_ldm.load_autoencoder(source).encode(PHOTO) for source in sources]
    assert torch.equal(latents[0], latents[1])
    assert torch.equal(latents[0], latents[2])
    monkeypatch.setenv("HOME", str(trained_run.path.parent))
    assert vae_ldm.load_autoencoder(f"~/{trained_run.path.name}").latent_channels == 4


def test_precision_and_device_are_as_asked_for(trained_run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = vae_ldm.pipeline(trained_run.path, torch_dtype=torch.bfloat16, device="cpu")
    assert {module.dtype for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.bfloat16}
    assert pipeline.device == torch.device("cpu")
    autoencoder = vae_ldm.load_autoencoder(trained_run.path, torch_dtype=torch.bfloat16, tile_size=None)
    assert autoencoder.encode(PHOTO).dtype == torch.bfloat16


def test_an_autoencoder_unfit_for_float16_is_warned_of(trained_run, tmp_path):
    shutil.copytree(trained_run.pipeline, tmp_path / "pipeline")
    config = tmp_path / "pipeline" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": True}))
    with pytest.warns(UserWarning, match="marked as unfit for float16"):
        vae_ldm.pipeline(tmp_path / "pipeline", torch_dtype=torch.float16)


def test_a_pipeline_of_another_kind_is_named(trained_run, tmp_path):
    shutil.copytree(trained_run.pipeline, tmp_path / "xl")
    index = tmp_path / "xl" / "model_index.json"
    fields = json.loads(index.read_text())
    fields |= {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}
    index.write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match=r"a StableDiffusionXLPipeline is not .*second text encoder.*open it with"):
        vae_ldm.pipeline(tmp_path / "xl")
    index.write_text("[]")
    with pytest.raises(WeightsError, match=r"model_index\.json: holds no JSON object"):
        vae_ldm.pipeline(tmp_path / "xl")


@pytest.mark.parametrize("call", [vae_ldm.pipeline, vae_ldm.load_autoencoder])
def test_what_is_not_there_is_one_line(call, tmp_path):
    for source in (tmp_path / "absent", tmp_path):
        with pytest.raises(WeightsError) as caught:
            call(source)
        assert str(caught.value).startswith(f"{source}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", [vae_ldm.pipeline, vae_ldm.load_autoencoder])
def test_a_repository_is_downloaded_with_what_was_said(call, trained_run, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options))
        return trained_run.pipeline

    monkeypatch.setattr("vae_ldm.weights.download", download)
    options = {"revision": "v1", "token": "hf_x", "cache_dir": "cache"}
    part = "vae" if call is vae_ldm.load_autoencoder else None
    for name in ("org/name", "hf://org/name@v1"):
        call(name, **options)
        assert asked.pop() == (name, {**options, "subfolder": part})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"device": "cuda:77"}, "device cuda:77: "),
        ({"device": "nowhere"}, "device nowhere: "),
        ({"torch_dtype": "half"}, "torch_dtype 'half'"),
    ],
)
def test_a_wrong_device_or_dtype_is_one_line(trained_run, where, message):
    with pytest.raises(VaeLdmError, match=message) as caught:
        vae_ldm.load_autoencoder(trained_run.path, **where)
    assert "\n" not in str(caught.value)
