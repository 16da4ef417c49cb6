"""The recipe: what one run is made of."""

from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from vae_ldm.recipe.parts import Autoencoder, Data, Diffusion, Evaluation, Part

DERIVED_FROM_WEIGHTS = ("size", "downsample_factor", "latent_channels")
"""Keys of the autoencoder that a pretrained one decides, so that a recipe must not."""


class Disagreement(NamedTuple):
    """Settings that are right by themselves and cannot work together, or one that would be ignored."""

    keys: tuple[str, ...]
    """Dotted key paths; the first is the one to change."""
    text: str


class SettingsError(ValueError):
    """All disagreements of a recipe."""

    def __init__(self, disagreements: list[Disagreement]) -> None:
        super().__init__("; ".join(f"{disagreement.keys[0]}: {disagreement.text}" for disagreement in disagreements))
        self.disagreements = disagreements


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
        disagreements = [*_autoencoder_disagreements(self.autoencoder), *_size_disagreements(self)]
        if self.diffusion is not None:
            disagreements += _diffusion_disagreements(self.diffusion)
        if disagreements:
            raise SettingsError(disagreements)
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.data.image_size
        return (size, size) if isinstance(size, int) else size


def _autoencoder_disagreements(stage: Autoencoder) -> list[Disagreement]:
    if stage.from_pretrained is None:
        if stage.train == "all":
            return []
        keys = ("autoencoder.train", "autoencoder.from_pretrained")
        return [Disagreement(keys, f"{stage.train} needs autoencoder.from_pretrained")]
    ignored = [key for key in DERIVED_FROM_WEIGHTS if key in stage.model_fields_set]
    text = "comes from the pretrained weights; leave it out"
    return [Disagreement((f"autoencoder.{key}", "autoencoder.from_pretrained"), text) for key in ignored]


def _size_disagreements(recipe: Recipe) -> list[Disagreement]:
    stage, found = recipe.autoencoder, []
    if stage.from_pretrained is not None:
        return []
    factor = stage.downsample_factor
    sizes = {"data.image_size": recipe.image_size}
    if stage.crop_size is not None:
        crop = stage.crop_size
        sizes["autoencoder.crop_size"] = (crop, crop) if isinstance(crop, int) else crop
        if any(c > s for c, s in zip(sizes["autoencoder.crop_size"], recipe.image_size, strict=True)):
            keys = ("autoencoder.crop_size", "data.image_size")
            found.append(Disagreement(keys, "larger than data.image_size"))
    for key, (height, width) in sizes.items():
        if height % factor or width % factor:
            text = (
                f"{height}x{width} is not divisible by autoencoder.downsample_factor {factor}; "
                f"the nearest that is: {_nearest(height, factor)}x{_nearest(width, factor)}"
            )
            found.append(Disagreement((key, "autoencoder.downsample_factor"), text))
    return found


def _nearest(side: int, factor: int) -> int:
    return max(factor, round(side / factor) * factor)


def _diffusion_disagreements(stage: Diffusion) -> list[Disagreement]:
    found = []
    if stage.prediction_type == "flow_prediction" and stage.min_snr_gamma is not None:
        keys = ("diffusion.min_snr_gamma", "diffusion.prediction_type")
        found.append(Disagreement(keys, "has no meaning for flow_prediction; leave it out"))
    if stage.zero_terminal_snr and stage.prediction_type != "v_prediction":
        keys = ("diffusion.zero_terminal_snr", "diffusion.prediction_type")
        found.append(Disagreement(keys, "needs prediction_type: v_prediction"))
    return found
