"""The recipe: what one run is made of."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, ValidationInfo, model_validator

from vae_ldm.choices import RUNS_FOLDER
from vae_ldm.errors import RecipeError
from vae_ldm.recipe.agreement import disagreements
from vae_ldm.recipe.disagreement import SettingsError
from vae_ldm.recipe.parts import (
    RUN_NAME,
    Autoencoder,
    Data,
    Diffusion,
    Distill,
    Evaluation,
    Hub,
    LocalPath,
    Logger,
    Part,
    TensorBoard,
    TrainedTextEncoder,
    WholeNumber,
    both_sides,
)
from vae_ldm.recipe.upgrade import NEWEST


class Recipe(Part):
    """One run: the data, the stages to run, and how to judge them. A stage that is absent is not run."""

    format: Annotated[Literal[2], WholeNumber] = 2
    """Which version of these keys the file is written in; a file without it is read as vae_ldm 0.1 read it."""
    name: Annotated[str, Field(max_length=200, pattern=RUN_NAME)]
    """Name of the run folder inside output_dir."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    output_dir: LocalPath = RUNS_FOLDER
    data: Data
    autoencoder: Autoencoder
    diffusion: Diffusion | None = None
    evaluation: Evaluation = Evaluation()
    hub: Hub | None = None
    loggers: Annotated[tuple[Logger, ...], Strict(False), Field(max_length=16)] = (TensorBoard(),)
    """Where curves go besides log.csv."""

    @model_validator(mode="after")
    def _settings_agree(self, info: ValidationInfo) -> Self:
        """Refuse settings that would be ignored or cannot work together, as the format in the context refuses them."""
        number = (info.context or {}).get("format", NEWEST)
        found = [disagreement for disagreement in disagreements(self) if disagreement.since <= number]
        if found:
            raise SettingsError(found)
        return self

    @property
    def run_folder(self) -> Path:
        """Where everything of the run lies. Raises RecipeError for a home folder that does not exist."""
        try:
            return Path(self.output_dir).expanduser() / self.name
        except RuntimeError:
            raise RecipeError(f"output_dir: {self.output_dir}: there is no such home folder") from None

    def as_begun(self, begun: "Recipe") -> "Recipe":
        """This recipe, which resumes the run of `begun`: a length of prompts that it leaves open is that of `begun`."""
        if self.diffusion is None or begun.diffusion is None:
            return self
        now, before = self.diffusion.text_encoder, begun.diffusion.text_encoder
        if not (isinstance(now, TrainedTextEncoder) and isinstance(before, TrainedTextEncoder)):
            return self
        if self.diffusion.from_pretrained is not None or now.min_length is not None:
            return self
        encoder = now.model_copy(update={"min_length": before.min_length})
        return self.model_copy(update={"diffusion": self.diffusion.model_copy(update={"text_encoder": encoder})})

    @property
    def distillation(self) -> Distill | None:
        """What its stage goes by."""
        return None if self.diffusion is None else self.diffusion.distill

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels: of a mixture whose sources differ, those that it names itself."""
        sizes = self.image_sizes
        return sizes[0] if len(sizes) == 1 else both_sides(self.data.image_size)

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """The distinct sizes of the pictures, in the sources' order."""
        return tuple(dict.fromkeys(both_sides(source.part.image_size) for source in self.data.all_sources))

    @property
    def num_latents(self) -> int | None:
        """How many latent numbers a picture, or a crop of it, has in training; None where pretrained weights decide."""
        stage = self.autoencoder
        if stage.from_pretrained is not None:
            return None
        size = stage.crop_size or self.image_size
        height, width = both_sides(size)
        return stage.latent_channels * (height // stage.downsample_factor) * (width // stage.downsample_factor)
