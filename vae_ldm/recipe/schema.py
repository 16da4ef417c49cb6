"""The recipe: what one run is made of."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from vae_ldm.recipe.parts import Autoencoder, Data, Diffusion, Evaluation, Part

_DERIVED_FROM_WEIGHTS = ("size", "downsample_factor", "latent_channels")


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

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        """Refuse settings that would be ignored or cannot work together."""
        mistakes = [*_autoencoder_mistakes(self.autoencoder), *_size_mistakes(self)]
        if self.diffusion is not None:
            mistakes += _diffusion_mistakes(self.diffusion)
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.data.image_size
        return (size, size) if isinstance(size, int) else size


def _autoencoder_mistakes(stage: Autoencoder) -> list[str]:
    mistakes = []
    if stage.from_pretrained is None:
        if stage.train != "all":
            mistakes.append(f"autoencoder.train: {stage.train} needs autoencoder.from_pretrained")
    else:
        ignored = [f"autoencoder.{key}" for key in _DERIVED_FROM_WEIGHTS if key in stage.model_fields_set]
        if ignored:
            mistakes.append(f"{', '.join(ignored)}: comes from the pretrained weights; leave it out")
    return mistakes


def _size_mistakes(recipe: Recipe) -> list[str]:
    stage, mistakes = recipe.autoencoder, []
    if stage.from_pretrained is not None:
        return mistakes
    factor = stage.downsample_factor
    sizes = {"data.image_size": recipe.image_size}
    if stage.crop_size is not None:
        crop = stage.crop_size
        sizes["autoencoder.crop_size"] = (crop, crop) if isinstance(crop, int) else crop
        if any(c > s for c, s in zip(sizes["autoencoder.crop_size"], recipe.image_size, strict=True)):
            mistakes.append("autoencoder.crop_size: larger than data.image_size")
    for key, (height, width) in sizes.items():
        if height % factor or width % factor:
            mistakes.append(
                f"{key}: {height}x{width} is not divisible by autoencoder.downsample_factor {factor}; "
                f"the nearest that is: {_nearest(height, factor)}x{_nearest(width, factor)}"
            )
    return mistakes


def _nearest(side: int, factor: int) -> int:
    return max(factor, round(side / factor) * factor)


def _diffusion_mistakes(stage: Diffusion) -> list[str]:
    mistakes = []
    if stage.prediction_type == "flow_prediction" and stage.min_snr_gamma is not None:
        mistakes.append("diffusion.min_snr_gamma: has no meaning for flow_prediction; leave it out")
    if stage.zero_terminal_snr and stage.prediction_type != "v_prediction":
        mistakes.append("diffusion.zero_terminal_snr: needs prediction_type: v_prediction")
    return mistakes
