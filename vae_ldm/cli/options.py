"""Arguments and options that several verbs have in common."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from vae_ldm.choices import MAX_DENOISING_STEPS, MAX_GUIDANCE_SCALE, MAX_SEED, MIN_STRENGTH, FeatureKind
from vae_ldm.cli import paths
from vae_ldm.cli.wrong_values import not_finite, outside


def finite(number: float | None) -> float | None:
    """The number. Raises BadParameter for an infinite one and for nan, which no range refuses."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(not_finite(number))
    return number


def each_of(choices: Any) -> dict[str, Any]:
    """Settings of an option that may be repeated and takes values of a Literal, which typer supports for single values
    only.
    """
    legal = get_args(choices)

    def check(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            if value not in legal:
                raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, legal))}.")
        return values

    return {"metavar": one_of(choices), "callback": check}


def one_of(choices: Any) -> str:
    """How help shows the values of a Literal."""
    return f"[{'|'.join(get_args(choices))}]"


def strengths(numbers: list[float] | None) -> list[float] | None:
    """The numbers, each a strength."""
    for number in numbers or ():
        if not MIN_STRENGTH <= number <= 1:
            raise typer.BadParameter(outside(f"{number:g}", MIN_STRENGTH, 1))
    return numbers


def page_option(default: str) -> Any:
    """The option that names a page; `default` is its name where the user gives none."""
    return _new("FILE", f"A new file for the page (.html); by default {_first_free(default)}.", paths.page)


def table_option(default: str) -> Any:
    """The option that names a table; see `page_option`."""
    return _new("FILE", f"A new file for the table (.csv); by default {_first_free(default)}.", paths.table)


def folder_option(default: str) -> Any:
    """The option that names a folder of pictures; see `page_option`."""
    return _new("DIR", f"A new folder for the pictures; by default {_first_free(default)}.", paths.new_folder)


def _new(metavar: str, text: str, check: Callable[[Path | None], Path | None]) -> Any:
    return typer.Option("--out", metavar=metavar, help=text, callback=check, show_default=False)


def _first_free(default: str) -> str:
    stem, dot, suffix = default.partition(".")
    return f"{default}, or where that exists {stem}-2{dot}{suffix}, {stem}-3{dot}{suffix} and so on"


PhotosArgument = Annotated[
    Path,
    typer.Argument(metavar="PHOTOS", help="A folder of photos, of any layout, or one.", callback=paths.photos),
]
PhotoArgument = Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo.", callback=paths.photo)]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="RUN",
        help="A run, an autoencoder's folder, ORG/NAME of the Hub or starter, which comes with the package; by default "
        "what the folder was made with, else starter.",
        show_default=False,
        callback=paths.model,
    ),
]
PipelineOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="RUN",
        help="A run folder, a pipeline folder or ORG/NAME of the Hub.",
        callback=paths.pipeline,
    ),
]
MovedModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="RUN", help="Where the model lies now, if it has been moved.", callback=paths.model
    ),
]
FeaturesOption = Annotated[FeatureKind, typer.Option(metavar=one_of(FeatureKind), help="What photos are compared by.")]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="efficientnet-lite0 (the default), efficientnet-lite2, or a vision model of transformers.",
        callback=paths.backbone,
    ),
]
FalseAlarmRateOption = Annotated[
    float, typer.Option(metavar="RATE", help="Share of usual photos that may be called novel.", callback=finite)
]
OtherFalseAlarmRateOption = Annotated[
    float | None,
    typer.Option(
        "--false-alarm-rate",
        metavar="RATE",
        help="Share of usual photos that may be called novel; by default the detector's own.",
        show_default=False,
        callback=finite,
    ),
]
SeriesOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="A regular expression for names; photos whose first group is the same are one series.",
    ),
]
LeaveOutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="LIST",
        help="A text file of photos to leave out, one a line, such as odd ones that novelty inspect has shown.",
        callback=paths.text_file,
    ),
]
OnlyClassOption = Annotated[
    list[str] | None,
    typer.Option(metavar="CLASS", help="Only photos of this class count as usual, such as good; may be repeated."),
]
SeedOption = Annotated[
    int, typer.Option(metavar="N", min=0, max=MAX_SEED, help="The same number draws the same pictures again.")
]
DenoisingStepsOption = Annotated[
    int | None,
    typer.Option(
        "--denoising-steps",
        metavar="N",
        min=1,
        max=MAX_DENOISING_STEPS,
        help="Denoising steps a picture; by default the recipe's.",
        show_default=False,
    ),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        min=0,
        max=MAX_GUIDANCE_SCALE,
        help="How closely pictures follow the prompt; by default the recipe's.",
        show_default=False,
        callback=finite,
    ),
]
TargetPSNROption = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        min=10,
        max=60,
        help="PSNR that every photo keeps at least; by default 32, or the archive's own.",
        callback=finite,
    ),
]
