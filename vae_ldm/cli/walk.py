"""The verbs that go between and around photos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vae_ldm.choices import MIN_STRENGTH
from vae_ldm.cli import paths
from vae_ldm.cli.options import (
    DenoisingStepsOption,
    GuidanceOption,
    PhotoArgument,
    PipelineOption,
    SeedOption,
    finite,
    folder_option,
)
from vae_ldm.paths import new_place

if TYPE_CHECKING:
    from vae_ldm.desk.walk.walk import Drawing

StepsOption = Annotated[int, typer.Option(metavar="N", min=2, max=1000, help="Pictures of the strip.")]
SmoothOption = Annotated[
    int, typer.Option(metavar="N", min=1, max=1000, help="Frames of the film for each picture of the strip.")
]
StrengthOption = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=MIN_STRENGTH,
        max=1,
        help="How far to noise the model goes with each frame before it draws it anew; 1 is all the way.",
        callback=finite,
    ),
]
PromptOption = Annotated[str, typer.Option(metavar="TEXT", help="What the model is told to draw.")]
LikeOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PHOTOS",
        help="A folder of photos whose differences are the directions; by default the run's.",
        callback=paths.photos,
    ),
]


def _drawing(strength: float, prompt: str, seed: int, steps: int | None, guidance_scale: float | None) -> "Drawing":
    from vae_ldm.desk.walk.walk import Drawing

    return Drawing(strength, prompt, seed, steps, guidance_scale)


def morph(
    a: PhotoArgument,
    b: PhotoArgument,
    model: PipelineOption,
    steps: StepsOption = 8,
    smooth: SmoothOption = 3,
    strength: StrengthOption = 0.5,
    prompt: PromptOption = "",
    seed: SeedOption = 0,
    denoising_steps: DenoisingStepsOption = None,
    guidance_scale: GuidanceOption = None,
    out: Annotated[Path | None, folder_option("morph")] = None,
) -> None:
    """Go from one photo to another, as a strip and as a film. Each is made twice: by latents and by the model."""
    from vae_ldm.desk.walk.walk import morph as draw

    drawing = _drawing(strength, prompt, seed, denoising_steps, guidance_scale)
    with new_place(out, "morph") as folder:
        _print(draw(a, b, model, out=folder, steps=steps, smooth=smooth, drawing=drawing))


def walk(
    photo: PhotoArgument,
    model: PipelineOption,
    radius: Annotated[
        float,
        typer.Option(
            metavar="NUMBER",
            min=0,
            help="Distance from the photo, in standard deviations of a latent.",
            callback=finite,
        ),
    ] = 0.6,
    steps: StepsOption = 8,
    smooth: SmoothOption = 3,
    like: LikeOption = None,
    strength: StrengthOption = 0.5,
    prompt: PromptOption = "",
    seed: SeedOption = 0,
    denoising_steps: DenoisingStepsOption = None,
    guidance_scale: GuidanceOption = None,
    out: Annotated[Path | None, folder_option("walk")] = None,
) -> None:
    """Go once around a photo, as a strip and as an endless film. Each is made twice: by latents and by the model."""
    from vae_ldm.desk.walk.walk import walk as draw

    drawing = _drawing(strength, prompt, seed, denoising_steps, guidance_scale)
    with new_place(out, "walk") as folder:
        _print(draw(photo, model, out=folder, radius=radius, steps=steps, smooth=smooth, like=like, drawing=drawing))


def grid(
    photo: PhotoArgument,
    model: PipelineOption,
    toward: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PHOTO",
            help="Give it twice: the photos at the right and at the bottom.",
            callback=paths.some_photos,
        ),
    ] = None,
    reach: Annotated[
        float,
        typer.Option(
            metavar="NUMBER", min=0, help="Length of an axis to either side, in standard deviations.", callback=finite
        ),
    ] = 2,
    side: Annotated[
        int, typer.Option(metavar="N", min=2, max=100, help="Pictures in a row, and the number of rows.")
    ] = 5,
    like: LikeOption = None,
    strength: StrengthOption = 0.5,
    prompt: PromptOption = "",
    seed: SeedOption = 0,
    denoising_steps: DenoisingStepsOption = None,
    guidance_scale: GuidanceOption = None,
    out: Annotated[Path | None, folder_option("grid")] = None,
) -> None:
    """Change a photo in two directions at once. Photos differ most in them, or they lead to two other photos."""
    from vae_ldm.desk.walk.walk import grid as draw

    drawing = _drawing(strength, prompt, seed, denoising_steps, guidance_scale)
    with new_place(out, "grid") as folder:
        _print(draw(photo, model, out=folder, toward=toward or (), reach=reach, side=side, like=like, drawing=drawing))


def _print(files: list[Path]) -> None:
    from vae_ldm.terminal import new_output

    output = new_output()
    for file in files:
        output.say(file)
