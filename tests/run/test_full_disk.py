import pytest
from typer.testing import CliRunner

from tests.run.conftest import assert_same_weights
from vae_ldm.cli import app


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_room_made_the_run_goes_on(small_disk, make_recipe, recipe_file, trained_run):
    # The disk is full while pictures, a checkpoint, the autoencoder, latents or the pipeline are written.
    pictures, autoencoder = (
        sum(file.stat().st_size for file in folder.rglob("*")) // 1024
        for folder in (trained_run.pictures, trained_run.autoencoder)
    )
    diffusion = sum(file.stat().st_size for file in trained_run.diffusion.rglob("*")) // 1024
    whole = pictures + autoencoder + diffusion
    disk = small_disk(pictures // 2)
    command = ["train", str(recipe_file(make_recipe(output_dir=disk)))]
    reached = []
    for kilobytes in (pictures // 2, pictures + autoencoder // 3, pictures + autoencoder + 60, whole + 60):
        small_disk(kilobytes)
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1, result.output
        errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, result.output
        assert "No space left on device" in errors[0]
        written = disk / "nano"
        reached.append([(written / name).exists() for name in ("pictures", "autoencoder", "latents", "diffusion")])
    assert sum(map(sum, reached)) > len(reached)  # not always the same place
    small_disk(10 * whole)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert_same_weights(trained_run.pipeline, disk / "nano" / "pipeline")
