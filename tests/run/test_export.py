import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from tests.run.conftest import assert_same_weights
from vae_ldm.errors import RunError, VaeLdmError
from vae_ldm.loading import pipeline
from vae_ldm.models.latent_scaling import latent_statistics
from vae_ldm.opening import open_pipeline
from vae_ldm.run.export import export_checkpoint
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run
from vae_ldm.training.checkpoint_names import run_checkpoints


def test_the_last_checkpoint_is_the_pipeline_of_the_run(trained_run, tmp_path):
    written = export_checkpoint(trained_run.path, checkpoint="6", output_dir=tmp_path / "export")
    assert written == tmp_path / "export"
    assert_same_weights(trained_run.pipeline, written)
    for file in ("model_index.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"):
        assert (written / file).read_text() == (trained_run.pipeline / file).read_text()


def test_an_earlier_step_is_a_pipeline_of_its_averaged_weights(trained_run, tmp_path):
    written = export_checkpoint(trained_run.path, checkpoint="4", output_dir=tmp_path / "export")
    pipeline = open_pipeline(written)
    weights = torch.load(trained_run.checkpoints("diffusion") / "step=4.ckpt", weights_only=True)
    name = "conv_in.weight"
    assert torch.equal(pipeline.unet.state_dict()[name], weights["state_dict"][f"unet.{name}"])
    assert not torch.equal(pipeline.unet.state_dict()[name], weights["current_model_state"][f"unet.{name}"])


def test_the_best_checkpoint_by_its_path_or_its_name(trained_run, tmp_path):
    best = trained_run.checkpoints("diffusion") / "best.ckpt"
    for number, name in enumerate((str(best), "Best", "best.ckpt")):
        written = export_checkpoint(trained_run.path, checkpoint=name, output_dir=tmp_path / str(number))
        assert_same_weights(tmp_path / "0" / "unet", written / "unet")


@pytest.mark.parametrize("name", ["LAST", "step=6", "6"])
def test_the_last_checkpoint_is_the_one_by_default(trained_run, tmp_path, name):
    assert_same_weights(
        export_checkpoint(trained_run.path, checkpoint=name, output_dir=tmp_path / "x"), trained_run.pipeline
    )


def test_an_autoencoder_checkpoint_leaves_with_folded_latents(trained_run, tmp_path):
    checkpoint = trained_run.checkpoints("autoencoder") / "step=4.ckpt"
    written = export_checkpoint(trained_run.path, checkpoint=str(checkpoint), output_dir=tmp_path / "export")
    autoencoder = AutoencoderKL.from_pretrained(written)
    images = torch.from_numpy(np.load(trained_run.pictures / "train.npy")).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        statistics = latent_statistics([autoencoder.encode(images).latent_dist])
    torch.testing.assert_close(statistics.mean, torch.zeros(4).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(statistics.std, torch.ones(4).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["pipeline of the run", "checkpoint", "autoencoder", "finished by an older version"])
def test_no_file_of_an_export_holds_a_path_of_this_machine(trained_run, tmp_path, kind):
    run = trained_run
    step_4 = str(run.checkpoints("autoencoder") / "step=4.ckpt")
    checkpoint = {"checkpoint": "6", "autoencoder": step_4}.get(kind)
    if kind == "finished by an older version":
        run = RunFolder(shutil.copytree(trained_run.path, tmp_path / "copied"))
        for config in (run.pipeline / "vae" / "config.json", run.pipeline / "tokenizer" / "tokenizer_config.json"):
            content = json.loads(config.read_text())
            config.write_text(json.dumps({"_name_or_path": str(run.autoencoder), **content}))
    written = run.pipeline
    if kind != "pipeline of the run":
        written = export_checkpoint(run.path, checkpoint=checkpoint, output_dir=tmp_path / "export")
    for file in (path for path in written.rglob("*") if path.is_file()):
        for telling in (str(run.path), "name_or_path"):
            assert telling.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("lora", [False, True])
def test_by_default_what_a_finished_run_left_though_its_last_checkpoint_is_older(
    make_recipe, trained_run, tmp_path, lora
):
    if lora:
        source = str(trained_run.path)
        stage = {"from_pretrained": source, "train": "lora", "trainer": {"max_steps": 2, "batch_size": 2}}
        train_run(make_recipe(autoencoder={"from_pretrained": source, "train": "nothing"}, diffusion=stage))
        run = RunFolder(tmp_path / "nano")
    else:
        run = RunFolder(tmp_path / "run")
        shutil.copytree(trained_run.path, run.path)
    for step in (2, 6):  # as a run of 3f0c8c3 left it, which saved every so many steps and no more
        (run.checkpoints("diffusion") / f"step={step}.ckpt").unlink(missing_ok=True)
    written = export_checkpoint(run.path)
    assert written == run.path / f"pipeline-step={2 if lora else 6}"
    if lora:
        with_lora = pipeline(run.path)
        with_lora.save_pretrained(tmp_path / "merged")
        assert_same_weights(tmp_path / "merged", written)
    else:
        assert_same_weights(run.pipeline, written)


def test_a_run_shorter_than_the_pause_between_checkpoints_has_one_of_its_last_step(make_recipe, tmp_path):
    train_run(make_recipe(diffusion=None, autoencoder__trainer__checkpoint_every_n_steps=4))
    run = RunFolder(tmp_path / "nano")
    assert [path.name for path in run_checkpoints(run.checkpoints("autoencoder"))] == ["step=6.ckpt", "step=4.ckpt"]
    finished = export_checkpoint(run.path, output_dir=tmp_path / "finished")
    last = run.checkpoints("autoencoder") / "step=6.ckpt"
    exported = export_checkpoint(run.path, checkpoint=str(last), output_dir=tmp_path / "exported")
    assert_same_weights(finished, exported)


def test_a_copy_that_a_file_manager_made_is_no_checkpoint_of_its_own(trained_run, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run").checkpoints("diffusion")
    shutil.copy(folder / "step=4.ckpt", folder / "step=4 (copy).ckpt")
    assert [path.name for path in run_checkpoints(folder)] == ["step=6.ckpt", "step=4.ckpt"]
    assert export_checkpoint(tmp_path / "run", checkpoint="4", output_dir=tmp_path / "export").is_dir()


def test_a_full_disk_is_one_line(trained_run, small_disk):
    with pytest.raises((RunError, OSError), match=r"(?i)no space left on device"):
        export_checkpoint(trained_run.path, checkpoint="4", output_dir=small_disk(50) / "export")


def test_by_default_the_newest_of_the_furthest_stage_into_the_run(trained_run, tmp_path):
    shutil.copytree(trained_run.path, tmp_path / "run")
    assert export_checkpoint(tmp_path / "run") == tmp_path / "run" / "pipeline-step=6"
    RunFolder(tmp_path / "run").restart(["diffusion"])
    assert export_checkpoint(tmp_path / "run") == tmp_path / "run" / "autoencoder-step=6"


@pytest.mark.parametrize("what", ["full", "empty", "file"])
def test_nothing_is_overwritten(trained_run, tmp_path, what):
    target: Path = tmp_path / "export"
    if what == "file":
        target.write_text("mine")
    else:
        target.mkdir()
    if what == "full":
        (target / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VaeLdmError, match=f"^{target}: exists already; name another folder with --out, or delete it$"):
        export_checkpoint(trained_run.path, output_dir=target)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(trained_run, tmp_path):
    expected = r"has no checkpoint 5; there are diffusion: best, 6, 4; autoencoder: best, 6, 4$"
    with pytest.raises(VaeLdmError, match=expected):
        export_checkpoint(trained_run.path, checkpoint="5", output_dir=tmp_path / "export")
    with pytest.raises(VaeLdmError, match="is no run folder"):
        export_checkpoint(tmp_path)


@pytest.mark.parametrize("how", ["cut", "one bit of one weight"])
def test_a_damaged_checkpoint_is_refused_in_one_line(trained_run, tmp_path, how):
    shutil.copytree(trained_run.path, tmp_path / "run")
    checkpoint = RunFolder(tmp_path / "run").checkpoints("diffusion") / "step=6.ckpt"
    content = bytearray(checkpoint.read_bytes())
    if how == "cut":
        del content[1000:]
    else:
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]["unet.conv_in.weight"]
        content[content.find(weights.numpy().tobytes()) + 3] ^= 0x40
    checkpoint.write_bytes(content)
    with pytest.raises(VaeLdmError, match="damaged"):
        export_checkpoint(tmp_path / "run", checkpoint="6")
    assert not (tmp_path / "run" / "pipeline-step=6").exists()
