import gzip
import json
import signal
import zipfile
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.stopping import Stop, stop_at_batch
from vae_ldm.errors import RunError, StoppedError, VaeLdmError
from vae_ldm.run import loggers
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.stages import train_run
from vae_ldm.training.csv_log import read_csv_log

pytestmark = pytest.mark.filterwarnings("ignore")


def test_tensorboard_has_the_curves_of_the_csv_also_after_a_stop(make_recipe, tmp_path):
    recipe = make_recipe(diffusion=None)
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=True, batch=7)  # after step 3, of which no checkpoint knows
        with pytest.raises(Stop):
            train_run(recipe)
    train_run(recipe)
    run = RunFolder(tmp_path / "nano")
    events = EventAccumulator(str(run.path / "autoencoder" / "tensorboard"))
    events.Reload()
    rows = [row for row in read_csv_log(run.log("autoencoder")) if "train/loss" in row]
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert [int(row["step"]) for row in rows] == sorted(found)
    for row in rows:
        assert found[int(row["step"])] == pytest.approx(float(row["train/loss"]), rel=1e-5)


def test_without_loggers_there_is_the_csv(make_recipe, tmp_path):
    train_run(make_recipe(diffusion=None, loggers=[]))
    assert sorted(path.name for path in (tmp_path / "nano" / "autoencoder").iterdir()) == [
        "checkpoints",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "log.csv",
        "reconstructions",
    ]


@pytest.mark.parametrize(
    "logger",
    [
        {"type": "wandb", "project": "p"},
        {"type": "mlflow", "experiment_name": "e"},
        {"type": "comet_ml", "project": "p"},
    ],
    ids=lambda logger: logger["type"],
)
def test_a_logger_that_is_not_installed_is_one_line(make_recipe, logger):
    if find_spec(logger["type"]) is not None:
        pytest.skip(f"{logger['type']} is installed")
    for dry_run in (True, False):
        with pytest.raises(VaeLdmError, match=f"pip install {logger['type']}$"):
            train_run(make_recipe(diffusion=None, loggers=[logger]), dry_run=dry_run)


def test_a_server_that_cannot_be_reached_is_one_line(make_recipe, monkeypatch):
    def away(*arguments):
        raise ConnectionError("nobody at tracking.example\n  Traceback of the library")

    monkeypatch.setattr(loggers, "_build", away)
    recipe = make_recipe(diffusion=None, loggers=[{"type": "tensorboard"}])
    with pytest.raises(RunError, match=r"^loggers: tensorboard does not begin \(nobody at tracking.example\)"):
        train_run(recipe)


def test_wandb_has_a_run_of_its_own_for_each_stage(make_recipe, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="tried where it is installed; too heavy for every machine")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_run(make_recipe(loggers=[{"type": "wandb", "project": "p", "offline": True}]))
    for stage in ("autoencoder", "diffusion"):
        (run,) = (tmp_path / "nano" / stage / "wandb").glob("offline-run-*/run-*.wandb")
        written = run.read_bytes()
        assert (b"val/psnr" in written) == (stage == "autoencoder")
        assert (b"val/loss" in written) == (stage == "diffusion")


def stopped_and_resumed(recipe):
    """Both stages, the first of which is stopped after a checkpoint and goes on."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at_batch(patch, manual=True, batch=7)
        with pytest.raises(Stop):
            train_run(recipe)
    train_run(recipe)


def test_wandb_goes_on_in_the_same_run(make_recipe, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="tried where it is installed; too heavy for every machine")
    monkeypatch.setenv("WANDB_SILENT", "true")
    stopped_and_resumed(make_recipe(loggers=[{"type": "wandb", "project": "p", "offline": True}]))
    files = list((tmp_path / "nano" / "autoencoder" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.stem for file in files}) == 1


def test_mlflow_has_one_run_a_stage_also_after_a_stop(make_recipe, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="tried where it is installed; too heavy for every machine")
    stopped_and_resumed(make_recipe(loggers=[{"type": "mlflow", "experiment_name": "e"}]))
    for stage in ("autoencoder", "diffusion"):
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'nano' / stage / 'mlflow.db'}")
        (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
        assert run.info.status == "FINISHED"
        assert ("val/psnr" in run.data.metrics) == (stage == "autoencoder")
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == sorted(steps)


def test_comet_has_an_archive_a_stage(make_recipe, tmp_path):
    pytest.importorskip("comet_ml", reason="tried where it is installed; too heavy for every machine")
    train_run(make_recipe(loggers=[{"type": "comet_ml", "project": "p", "offline": True}]))
    for stage in ("autoencoder", "diffusion"):
        (archive,) = (tmp_path / "nano" / stage / "comet").glob("*.zip")
        with zipfile.ZipFile(archive) as file:
            written = b"".join(map(file.read, file.namelist()))
        assert (b"val/psnr" in written) == (stage == "autoencoder")
        assert (b"val/loss" in written) == (stage == "diffusion")


@pytest.mark.parametrize(("first_step", "run_id"), [(0, None), (2, "kept")])
def test_a_stage_that_goes_on_asks_for_the_run_that_it_had(make_recipe, tmp_path, monkeypatch, first_step, run_id):
    asked = []

    def build(*arguments):
        asked.append(arguments[-1])
        return SimpleNamespace(version="new", log_hyperparams=lambda params: None)

    monkeypatch.setattr(loggers, "_build", build)
    (tmp_path / "mlflow-0.id").write_text("kept")
    recipe = make_recipe(loggers=[{"type": "mlflow", "experiment_name": "e"}])
    loggers.build_loggers(recipe, "autoencoder", tmp_path, first_step=first_step)
    assert asked == [run_id]
    assert (tmp_path / "mlflow-0.id").read_text() == (run_id or "new")


def test_profile_leaves_a_trace_and_says_where(make_recipe, tmp_path, capsys):
    train_run(make_recipe(diffusion=None), profile=True)
    assert f"timed in {tmp_path}/nano/autoencoder/trace.json.gz" in capsys.readouterr().err
    with gzip.open(tmp_path / "nano" / "autoencoder" / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert "aten::conv2d" in names


def test_sigterm_while_a_logger_opens_ends_as_sigterm_does(make_recipe, monkeypatch):
    monkeypatch.setattr(loggers, "TensorBoardLogger", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(
        StoppedError, match=r"^stopped by SIGTERM; nothing of the stage autoencoder is saved yet, so repeat the"
    ):
        train_run(make_recipe(diffusion=None))
