"""The verbs of the claims desk as a whole: make one, and put a photo before it."""

from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.cli.index import Features

DeskArgument = Annotated[Path, typer.Argument(metavar="DESK", help="A folder: an index and a detector.")]


def desk(
    desk: DeskArgument,
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="A folder of past claims, of any layout.")],
    model: Annotated[str, typer.Option(metavar="RUN", help="A run, a folder or ORG/NAME: its autoencoder.")],
    features: Annotated[Features, typer.Option(help="What photos are compared by.")] = Features.BOTH,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A vision model of transformers; by default EfficientNet-Lite0."),
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(metavar="SHARE", help="How often a usual photo may be called new.")
    ] = 0.05,
) -> None:
    """Make a claims desk of past photos: an index to search and a detector of what was never seen."""
    from vae_ldm.run.claim import build_desk

    build_desk(
        desk,
        photos,
        model=model,
        features=features.value,
        backbone=backbone,
        false_alarm_rate=false_alarm_rate,
    )


def claim(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="The photo of a new claim.")],
    desk: Annotated[Path, typer.Option(metavar="DESK", help="A folder that vae-ldm desk has made.")],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="Where the page goes.")] = Path(
        "claim.html"
    ),
    model: Annotated[
        str | None, typer.Option(metavar="RUN", help="Where the desk's run lies now, if it has moved.")
    ] = None,
    num_similar: Annotated[int, typer.Option("-k", "--num-similar", min=1, help="Past photos to show.")] = 5,
    num_variations: Annotated[int, typer.Option(min=0, help="Variations to draw at each strength.")] = 6,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Say whether a photo was seen before, what it is like, and write a page about it."""
    from vae_ldm.run.claim import claim as put_before

    put_before(
        photo,
        desk,
        out=out,
        model=model,
        num_similar=num_similar,
        num_variations=num_variations,
        seed=seed,
    )
