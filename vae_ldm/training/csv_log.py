"""The loss curves of a stage in one CSV file that survives a stop."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from vae_ldm.files import write_whole


class CsvLog(Logger):
    """Rows of `step` and whatever was logged at it, at `path`.

    Lightning's CSVLogger deletes what an earlier, interrupted run wrote; this one keeps it up to `first_step`, where
    the resumed run begins, so that a curve has no gap and no repeated part.
    """

    def __init__(self, path: Path, *, first_step: int = 0, batches_per_step: int = 1) -> None:
        """`batches_per_step` is 1 unless Lightning counts batches, as it does in manual optimisation."""
        super().__init__()
        self.path = path
        self.batches_per_step = batches_per_step
        self._rows = [row for row in read_csv_log(path) if int(row["step"]) < first_step] if path.exists() else []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the recipe."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {key: f"{float(value):.6g}" for key, value in metrics.items() if key != "epoch"}
        row = {"step": str((step or 0) // self.batches_per_step), **values}
        if self._rows and self._rows[-1].keys() == row.keys() and self._rows[-1]["step"] == row["step"]:
            self._rows.pop()  # told twice: before a checkpoint and after it
        self._rows.append(row)

    @rank_zero_only
    def save(self) -> None:
        if not self._rows:
            return
        columns = ["step", *sorted({key for row in self._rows for key in row} - {"step"})]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(self._rows)
        write_whole(self.path, table.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def read_csv_log(path: Path) -> list[dict[str, str]]:
    """Rows of a log written by CsvLog, without the empty cells."""
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
