"""Where the curves of a stage go besides its log.csv: TensorBoard, or those of Lightning's loggers a recipe names."""

import os
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from vae_ldm.errors import RunError, VaeLdmError, first_line
from vae_ldm.recipe import Recipe, parts
from vae_ldm.run.folder import Stage


class ByStep(Logger):
    """One of Lightning's loggers, told steps where Lightning counts batches, as it does in manual optimisation."""

    def __init__(self, logger: Logger, *, batches_per_step: int) -> None:
        super().__init__()
        self.logger = logger
        self.batches_per_step = batches_per_step

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.logger.log_hyperparams(params, *args, **kwargs)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logger.log_metrics(metrics, (step or 0) // self.batches_per_step)

    def save(self) -> None:
        self.logger.save()

    def finalize(self, status: str) -> None:
        self.logger.finalize(status)
        # Both would give the next stage's curves to this one's run.
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.finish(exit_code=0 if status == "success" else 1)
        elif isinstance(self.logger, CometLogger):
            self.logger.experiment.end()


def check_loggers(recipe: Recipe) -> None:
    """Raise VaeLdmError where the recipe names a logger whose package is not installed."""
    for part in recipe.loggers:
        if find_spec(part.type) is None:
            raise VaeLdmError(f"loggers: {part.type} is not installed; run: pip install {part.type}")


def build_loggers(
    recipe: Recipe, stage: Stage, folder: Path, *, first_step: int = 0, batches_per_step: int = 1
) -> list[Logger]:
    """The recipe's loggers for a stage that goes on at `first_step`, in the runs of theirs that it had before.

    Raises RunError where one does not begin: its server cannot be reached, or refuses.
    """
    built: list[Logger] = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(recipe.loggers):
        id_file = folder / f"{part.type}-{number}.id"
        run_id = id_file.read_text() if first_step and id_file.exists() else None
        try:
            logger = _build(part, recipe, stage, folder, first_step, run_id)
            if run_id is None:  # MLflow refuses a second value of a parameter
                logger.log_hyperparams({"recipe": recipe.model_dump(mode="json"), "stage": stage})
                if not isinstance(part, parts.TensorBoard):
                    id_file.write_text(str(logger.version))
        except Exception as error:  # each library has errors of its own for a server that is away or wants a login
            raise RunError(
                f"loggers: {part.type} does not begin ({first_line(error)}); leave it out or repeat"
            ) from error
        built.append(ByStep(logger, batches_per_step=batches_per_step))
    return built


def _build(
    part: parts.Logger, recipe: Recipe, stage: Stage, folder: Path, first_step: int, run_id: str | None
) -> Logger:
    name = f"{recipe.name}-{stage}"
    match part:
        case parts.TensorBoard():
            # What a stopped run wrote after its last checkpoint is hidden from `first_step` on.
            return TensorBoardLogger(
                folder, name="", version="tensorboard", default_hp_metric=False, purge_step=first_step or None
            )
        case parts.WeightsAndBiases():
            return WandbLogger(
                name, save_dir=folder, project=part.project, entity=part.entity, offline=part.offline, id=run_id
            )
        case parts.MLFlow():
            if part.tracking_uri is not None:
                return MLFlowLogger(part.experiment_name, name, tracking_uri=part.tracking_uri, run_id=run_id)
            # Lightning's default, a folder of files, is refused by MLflow 3.
            return MLFlowLogger(
                part.experiment_name,
                name,
                tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}",
                artifact_location=(folder / "mlruns").resolve().as_uri(),
                run_id=run_id,
            )
        case parts.Comet():
            if part.offline:  # Lightning's online=False switches the experiment off
                os.environ["COMET_START_ONLINE"] = "false"
            return CometLogger(
                project=part.project,
                workspace=part.workspace,
                name=name,
                online=None if part.offline else True,
                offline_directory=str(folder / "comet"),
                experiment_key=run_id,
            )
