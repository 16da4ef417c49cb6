"""The verbs that go between and around photos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vae_ldm.desk.walk.walk import Drawing

ModelOption = Annotated[
    str, typer.Option("--model", metavar="RUN", help="A run folder, a pipeline folder or ORG/NAME of the Hub.")
]
PhotoArgument = Annotated[Path, typer.Argument(metavar="PHOTO")]
OutOption = Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the pictures.")]
StepsOption = Annotated[int, typer.Option(min=2, help="Pictures of the strip.")]
SmoothOption = Annotated[int, typer.Option(min=1, help="Frames of the film for each picture of the strip.")]
StrengthOption = Annotated[
    float, typer.Option(min=0, max=1, help="How far to noise the model goes with each frame before it draws it anew.")
]
PromptOption = Annotated[str, typer.Option(help="What the model is told to draw.")]
SeedOption = Annotated[int, typer.Option(min=0)]
DenoisingStepsOption = Annotated[
    int | None, typer.Option("--denoising-steps", min=1, help="By default the recipe's.", show_default=False)
]
GuidanceOption = Annotated[float | None, typer.Option(min=0, help="By default the recipe's.", show_default=False)]
LikeOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PHOTOS", help="A folder of photos whose differences are the directions; by default the run's."
    ),
]


def _drawing(strength: float, prompt: str, seed: int, steps: int | None, guidance_scale: float | None) -> "Drawing":
    from vae_ldm.desk.walk.walk import Drawing

    return Drawing(strength, prompt, seed, steps, guidance_scale)


def morph(
    a: PhotoArgument,
    b: PhotoArgument,
    model: ModelOption,
    steps: StepsOption = 8,
    smooth: SmoothOption = 3,
    strength: StrengthOption = 0.5,
    prompt: PromptOption = "",
    seed: SeedOption = 0,
    denoising_steps: DenoisingStepsOption = None,
    guidance_scale: GuidanceOption = None,
    out: OutOption = Path("morph"),
) -> None:
    """Go from one photo to another, through latents and through the model, as a strip and as a film."""
    from vae_ldm.desk.walk.walk import morph as draw

    drawing = _drawing(strength, prompt, seed, denoising_steps, guidance_scale)
    _print(draw(a, b, model, out=out, steps=steps, smooth=smooth, drawing=drawing))


def walk(
    photo: PhotoArgument,
    model: ModelOption,
    radius: Annotated[
        float, typer.Option(min=0, help="Distance from the photo, in standard deviations of a latent.")
    ] = 0.6,
    steps: StepsOption = 8,
    smooth: SmoothOption = 3,
    like: LikeOption = None,
    strength: StrengthOption = 0.5,
    prompt: PromptOption = "",
    seed: SeedOption = 0,
    denoising_steps: DenoisingStepsOption = None,
    guidance_scale: GuidanceOption = None,
    out: OutOption = Path("walk"),
) -> None:
    """Go once around a photo, through latents and through the model, as a strip and as a film that closes."""
    from vae_ldm.desk.walk.walk import walk as draw

    drawing = _drawing(strength, prompt, seed, denoising_steps, guidance_scale)
    _print(draw(photo, model, out=out, radius=radius, steps=steps, smooth=smooth, like=like, drawing=drawing))


def grid(
    photo: PhotoArgument,
    model: ModelOption,
    toward: Annotated[
        list[Path] | None,
        typer.Option(metavar="PHOTO", help="Twice: photos at the right and at the bottom, instead of axes."),
    ] = None,
    reach: Annotated[float, typer.Option(min=0, help="Length of an axis to either side, in standard deviations.")] = 2,
    side: Annotated[int, typer.Option(min=2, help="Pictures a row, and rows.")] = 5,
    like: LikeOption = None,
    strength: StrengthOption = 0.5,
    prompt: PromptOption = "",
    seed: SeedOption = 0,
    denoising_steps: DenoisingStepsOption = None,
    guidance_scale: GuidanceOption = None,
    out: OutOption = Path("grid"),
) -> None:
    """Change a photo in two directions at once: the two along which photos differ most, or toward two others."""
    from vae_ldm.desk.walk.walk import grid as draw

    drawing = _drawing(strength, prompt, seed, denoising_steps, guidance_scale)
    _print(draw(photo, model, out=out, toward=toward or (), reach=reach, side=side, like=like, drawing=drawing))


def _print(files: list[Path]) -> None:
    for file in files:
        typer.echo(file)
