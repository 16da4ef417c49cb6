"""The recipe: what one run is made of."""

from typing import Annotated, Self

from pydantic import Field, Strict, model_validator

from vae_ldm.recipe.agreement import SettingsError, disagreements
from vae_ldm.recipe.parts import Autoencoder, Data, Diffusion, Evaluation, Hub, Logger, Part, TensorBoard


class Recipe(Part):
    """One run: the data, the stages to run, and how to judge them. A stage that is absent is not run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run folder inside output_dir."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    output_dir: str = "runs"
    data: Data
    autoencoder: Autoencoder
    diffusion: Diffusion | None = None
    evaluation: Evaluation = Evaluation()
    hub: Hub | None = None
    loggers: Annotated[tuple[Logger, ...], Strict(False)] = (TensorBoard(),)
    """Where curves go besides log.csv."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        """Refuse settings that would be ignored or cannot work together."""
        found = list(disagreements(self))
        if found:
            raise SettingsError(found)
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.data.image_size
        return (size, size) if isinstance(size, int) else size
