"""What `train --dry-run` says of the pictures."""

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conftest import MakeRecipe
from vae_ldm.assembly import build_sources
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.picture_cache import load_pictures, look_through
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.errors import DataError, RecipeError, VaeLdmError, WeightsError
from vae_ldm.processes import Processes
from vae_ldm.run import step_time
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run
from vae_ldm.run.step_time import Update, seconds_a_step
from vae_ldm.training.lit_autoencoder import LitAutoencoder
from vae_ldm.training.lit_latent_diffusion import LitLatentDiffusion


@pytest.mark.parametrize("max_share", [0.05, 0.1])
def test_photos_that_cannot_be_used_are_named_and_refused_as_training_refuses_them(
    make_recipe: MakeRecipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    max_share: float,
) -> None:
    """Also one behind the first eight, which are tried."""
    folder = tmp_path / "photos" / "tin"
    folder.mkdir(parents=True)
    for name in "abcdefghi":
        Image.new("RGB", (32, 32)).save(folder / f"{name}.png")
    (folder / "j.jpg").write_text("not a picture")
    data = {"type": "image_folder", "path": str(tmp_path / "photos"), "image_size": 16}
    settings = {"max_unreadable_share": max_share, "validation_fraction": 0.3}
    recipe = make_recipe(data=data | settings, diffusion=None)
    found = f"1 of 10 pictures in {tmp_path}/photos cannot be used"
    if max_share == 0.1:
        train_run(recipe, dry_run=True)
        (one,) = build_sources(recipe)
        source, transform = one.source, one.settings
        splits = load_pictures(source, RunFolder(recipe.run_folder).pictures, transform)
        line = f"data: {len(splits.train)} training and {len(splits.validation)} validation pictures, 1 left out; "
        assert len(splits.train) + len(splits.validation) == 9
        train_run(recipe, dry_run=True)  # of what is decoded already, it says the same
        assert capsys.readouterr().err.count(line) == 2
        assert found in caplog.messages
        assert any(line.startswith("left out tin/j.jpg: not a picture, or of a format") for line in caplog.messages)
        return
    for dry_run in (True, False):
        with pytest.raises(DataError) as refused:
            train_run(recipe, dry_run=dry_run)
        assert str(refused.value).startswith(f"{found}, more than max_unreadable_share 0.05 allows: tin/j.jpg: not a")


def test_of_very_many_photos_some_are_looked_at(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"^1 of 4 pictures, of 8 evenly spread, in .* cannot be used, more than"):
        look_through(ImageFolderSource(str(tmp_path)), tmp_path / "absent", PictureSettings((16, 16)), most=4)


def test_what_is_done_is_not_counted_once_more(
    trained_run: RunFolder, make_recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained_run.path, tmp_path / "nano")
    run = RunFolder(tmp_path / "nano")
    run.finish("evaluation")
    train_run(make_recipe(), dry_run=True)
    assert f"{run.path}: all stages are finished; the command would train nothing" in capsys.readouterr().err
    train_run(make_recipe(), dry_run=True, restart=["diffusion"])
    said = capsys.readouterr().err
    assert "autoencoder: finished\n" in said
    assert "; 6 steps of 8 in" in said
    run.restart(["diffusion"])
    checkpoints = run.checkpoints("diffusion")
    shutil.copytree(trained_run.checkpoints("diffusion"), checkpoints)
    (checkpoints / "step=6.ckpt").unlink()
    train_run(make_recipe(), dry_run=True)
    assert "; 4 steps done, 2 left of 8 in" in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"the stage diffusion has begun with another recipe \(diffusion.dropout"):
        train_run(make_recipe(diffusion__dropout=0.5), dry_run=True)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "step=4.ckpt"]


def test_one_picture_is_as_few_for_a_dry_run_as_for_a_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "a.png")
    asked = make_recipe(
        data={"type": "image_folder", "path": str(tmp_path / "photos"), "image_size": 16}, diffusion=None
    )
    for dry_run in (True, False):
        with pytest.raises(DataError, match=r"1 of 1 picture in .* can be used; at least 2 are needed, one to valid"):
            train_run(asked, dry_run=dry_run)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_network_that_measures_is_opened_before_anything_is_trained(
    make_recipe: MakeRecipe, tmp_path: Path, dry_run: bool
) -> None:
    (tmp_path / "empty").mkdir()
    asked = make_recipe(evaluation__features={"type": "transformers", "from_pretrained": str(tmp_path / "empty")})
    with pytest.raises(WeightsError, match=r"^no vision model in .*/empty "):
        train_run(asked, dry_run=dry_run)
    assert not list(tmp_path.glob("**/*.ckpt"))


@pytest.mark.parametrize(
    ("launcher", "recipe", "line"),
    [
        ("no", "32-true", None),
        ("bf16", None, None),
        ("bf16", "32-true", "means bf16-mixed, the recipe says precision: 32-true; leave one out"),
        ("fp16", None, "use bf16, or no with diffusion.trainer.precision: 16-mixed"),
    ],
)
def test_a_precision_that_the_launcher_contradicts_is_refused(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, launcher: str, recipe: str | None, line: str | None
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    asked = make_recipe(diffusion=None, autoencoder__trainer__precision=recipe)
    with nullcontext() if line is None else pytest.raises(VaeLdmError, match=line):
        train_run(asked, dry_run=True)


def test_fp16_on_a_cpu_is_refused_before_anything_is_trained(make_recipe: MakeRecipe) -> None:
    asked = make_recipe(diffusion__trainer__precision="16-mixed")
    with pytest.raises(VaeLdmError, match=r"16-mixed takes a GPU; on a CPU use bf16-mixed or 32-true"):
        train_run(asked, dry_run=True)


def test_a_launcher_that_has_started_one_process_only_is_spoken_of(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run(make_recipe(diffusion=None), dry_run=True)
    assert "process" not in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    train_run(make_recipe(diffusion=None), dry_run=True)
    assert "1 process; on a machine without GPUs accelerate launch starts several only with" in capsys.readouterr().err


def test_what_is_timed_is_the_whole_step_on_the_device_of_the_run(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a device that computes nothing, all of it must be there, and all of a step must be tried there."""
    device, calls, stepped = torch.device("meta"), [], []
    monkeypatch.setattr(Processes, "device", property(lambda self: device))

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def spied(*args: Any, **options: Any) -> Any:
            tensors = [*owner_tensors(args), *options.values()]
            calls.append((name, {value.device.type for value in tensors if isinstance(value, torch.Tensor)}))
            return original(*args, **options)

        monkeypatch.setattr(owner, name, spied)

    def owner_tensors(args: tuple[Any, ...]) -> list[Any]:
        flat = [value for arg in args for value in (arg.values() if isinstance(arg, dict) else [arg])]
        return [*flat, *(p for arg in args if isinstance(arg, torch.nn.Module) for p in arg.parameters())]

    monkeypatch.setattr(step_time, "new_optimizer", partial(step_time.new_optimizer, fused=False))  # it has no kernels

    watch(LitAutoencoder, "generator_loss")
    watch(LitAutoencoder, "discriminator_loss")
    watch(LitLatentDiffusion, "denoising_loss")
    watch(torch, "_foreach_lerp_")
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: (stepped.append(self), step(self, *a)))
    train_run(make_recipe(autoencoder__loss__ssim_weight=0), dry_run=True)
    assert {name for name, _ in calls} == {
        "generator_loss", "discriminator_loss", "denoising_loss", "_foreach_lerp_",
    }  # fmt: skip
    assert all(devices <= {"meta"} for _, devices in calls)
    assert len({id(optimizer) for optimizer in stepped}) == 3
    assert capsys.readouterr().err.count("on this META") == 2


def test_it_is_timed_in_the_precision_of_the_run_and_to_the_end_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen, waited = torch.nn.Linear(2, 2), [], []

    def loss() -> torch.Tensor:
        seen.append(network(torch.ones(1, 2)).dtype)
        return network(torch.ones(1, 2)).float().sum()

    monkeypatch.setattr("vae_ldm.run.step_time._wait_for", waited.append)
    before = [parameter.clone() for parameter in network.parameters()]
    update = Update(network, clip_norm=1.0, num_averages=1)
    cpu = torch.device("cpu")
    assert seconds_a_step([(loss, update)], device=cpu, precision="bf16-mixed", batches=2) > 0
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 2 * len(waited) / 2
    assert waited == [cpu] * len(waited)
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
