"""Where the curves go besides log.csv, which is always written."""

from typing import Annotated, Literal

from pydantic import Field

from vae_ldm.recipe.parts.base import Part, Word


class TensorBoard(Part):
    """Curves in the run folder: tensorboard --logdir RUN."""

    type: Literal["tensorboard"] = "tensorboard"


class WeightsAndBiases(Part):
    """Curves at wandb.ai; needs `pip install wandb`. Reaches the network unless offline."""

    type: Literal["wandb"] = "wandb"
    project: Word
    entity: Word | None = None
    offline: bool = False


class MLFlow(Part):
    """Curves in an MLflow store; needs `pip install mlflow`."""

    type: Literal["mlflow"] = "mlflow"
    experiment_name: Word
    tracking_uri: Word | None = None
    """A server's address; null: mlflow.db in the stage's folder."""


class Comet(Part):
    """Curves at comet.com; needs `pip install comet_ml`. Reaches the network unless offline."""

    type: Literal["comet_ml"] = "comet_ml"
    project: Word
    workspace: Word | None = None
    offline: bool = False


Logger = Annotated[TensorBoard | WeightsAndBiases | MLFlow | Comet, Field(discriminator="type")]
