"""The stages of a run, declared once: every list of stages follows from `STAGES`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vae_ldm.choices import BestEnd, Export, Network, ValidationMetric
from vae_ldm.choices import Stage as StageName

if TYPE_CHECKING:
    from vae_ldm.recipe.schema import Recipe


@dataclass(frozen=True)
class Stage:
    """What everything that goes through the stages has to know of one."""

    name: StageName
    """Its entry in state.json, its folder in the run folder where it trains, and what a Recipe calls its settings."""
    follows_from: tuple[str, ...]
    """Sections of the recipe that its result follows from: with another of them a finished stage would be a lie."""
    writes: tuple[str, ...]
    """Names in the run folder that are deleted when the stage begins afresh."""
    exports: tuple[Export, ...] = ()
    """Folders of the run that hold the stage's exports; the first that exists is used."""
    summary: str = ""
    """What it learns, in a sentence or two below its title in the report."""
    network: Network | None = None
    """The network that it trains; None where it trains nothing."""
    metrics: tuple[tuple[ValidationMetric, BestEnd], ...] = ()
    """What it logs on validation pictures, and which end of it is best; the first one chooses where the recipe names
    none."""
    within: str = ""
    """Where its settings stand in the recipe, dotted, if they are a part of another section."""

    @property
    def section(self) -> str:
        """Where its settings stand in the recipe, dotted."""
        return self.within or self.name

    @property
    def title(self) -> str:
        """Its name as a heading."""
        return self.name.replace("_", " ").capitalize()

    def best(self, metric: ValidationMetric | None) -> tuple[ValidationMetric, BestEnd]:
        """The metric by which its best weights are chosen, and which end of it is best; None: its first one."""
        return next(entry for entry in self.metrics if metric in (None, entry[0]))


STAGES = (
    Stage(
        "autoencoder",
        follows_from=("seed", "data", "autoencoder"),
        writes=("autoencoder", "latents"),
        exports=("autoencoder",),
        summary="Pictures to latents and back. It sets the limit: the diffusion model can draw nothing the decoder "
        "cannot.",
        network="autoencoder",
        metrics=(("val/psnr", "max"), ("val/ssim", "max"), ("val/reconstruction", "min")),
    ),
    Stage(
        "diffusion",
        follows_from=("seed", "data", "autoencoder", "diffusion"),
        writes=("diffusion", "pipeline", "lora"),
        exports=("pipeline", "lora"),
        summary="From noise and a prompt to latents, which the decoder turns into a new picture.",
        network="unet",
        metrics=(("val/loss", "min"),),
    ),
    Stage(
        "distillation",
        follows_from=("seed", "data", "autoencoder", "diffusion"),
        writes=("distillation", "student", "teacher"),
        exports=("student",),
        summary="The UNet's student draws with guidance at one pass a step, in few steps. Each is measured beside the "
        "other, on the same prompts and the same noises.",
        network="unet",
        metrics=(("val/distance", "min"),),
        within="diffusion.distill",
    ),
    Stage(
        "evaluation",
        follows_from=("seed", "data", "autoencoder", "diffusion", "evaluation"),
        writes=("samples", "metrics.json", "report.html"),
    ),
)
"""The stages in the order in which they run."""

TRAINED = tuple(stage for stage in STAGES if stage.network is not None)
"""The stages that train a network; each has checkpoints, a log.csv and measurements."""

EXPORTS = tuple(folder for stage in STAGES for folder in stage.exports)
"""Folders of a run that hold the exports of its stages."""


def stages_of(recipe: "Recipe") -> tuple[Stage, ...]:
    """The stages that a run of the recipe goes through, in their order."""
    return tuple(stage for stage in STAGES if getattr(recipe, stage.name) is not None)


def stage_named(name: StageName) -> Stage:
    """The stage of this name."""
    return next(stage for stage in STAGES if stage.name == name)


def from_stage_on(names: Sequence[StageName]) -> tuple[Stage, ...]:
    """The earliest of the named stages and all that follow it; none for no names."""
    first = min((index for index, stage in enumerate(STAGES) if stage.name in names), default=len(STAGES))
    return STAGES[first:]
