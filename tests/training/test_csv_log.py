import pytest
import torch

from vae_ldm.training.csv_log import CsvLog, read_csv_log


def test_rows_hold_what_was_logged(tmp_path):
    log = CsvLog(tmp_path / "stage" / "log.csv")
    log.log_metrics({"train/loss": torch.tensor(0.5), "epoch": 0}, step=1)
    log.log_metrics({"val/psnr": 21.25}, step=1)
    log.save()
    assert read_csv_log(log.path) == [{"step": "1", "train/loss": "0.5"}, {"step": "1", "val/psnr": "21.25"}]


def test_nothing_logged_writes_nothing(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    log.finalize("success")
    assert not log.path.exists()


def test_a_resumed_log_has_no_gap_and_no_repeated_part(tmp_path):
    path = tmp_path / "log.csv"
    before = CsvLog(path)
    for step in range(6):
        before.log_metrics({"train/loss": 1.0}, step=step)
    before.save()
    after = CsvLog(path, first_step=4)
    for step in range(4, 8):
        after.log_metrics({"train/loss": 2.0}, step=step)
    after.finalize("success")
    rows = [(int(row["step"]), float(row["train/loss"])) for row in read_csv_log(path)]
    assert rows == [(step, 1.0 if step < 4 else 2.0) for step in range(8)]


def test_a_new_run_begins_a_new_curve(tmp_path):
    path = tmp_path / "log.csv"
    CsvLog(path).log_metrics({"train/loss": 1.0}, step=0)
    assert CsvLog(path)._rows == []


def test_batches_are_counted_as_steps(tmp_path):
    log = CsvLog(tmp_path / "log.csv", batches_per_step=4)
    for batch in (3, 7):
        log.log_metrics({"train/loss": 1.0}, step=batch)
    log.save()
    assert [row["step"] for row in read_csv_log(log.path)] == ["0", "1"]


def test_a_failed_write_leaves_the_old_curve(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    log = CsvLog(path)
    log.log_metrics({"train/loss": 1.0}, step=0)
    log.save()
    log.log_metrics({"train/loss": 2.0}, step=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csv.DictWriter.writerows", full)
    with pytest.raises(OSError, match="No space"):
        log.save()
    assert len(read_csv_log(path)) == 1
