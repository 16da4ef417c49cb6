"""The verbs of the claims desk as a whole: make one, and put a photo before it."""

from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.cli import paths
from vae_ldm.cli.endings import going_on
from vae_ldm.cli.options import (
    BackboneOption,
    EncoderOption,
    FalseAlarmRateOption,
    FeaturesOption,
    LeaveOutOption,
    MovedModelOption,
    OnlyClassOption,
    OtherFalseAlarmRateOption,
    SeedOption,
    SeriesOption,
    page_option,
)
from vae_ldm.paths import new_place

DeskArgument = Annotated[
    Path, typer.Argument(metavar="DESK", help="A folder: an index and a detector.", callback=paths.desk_place)
]


@going_on("desk")
def desk(
    desk: DeskArgument,
    photos: Annotated[
        Path, typer.Argument(metavar="PHOTOS", help="A folder of past claims, of any layout.", callback=paths.photos)
    ],
    model: EncoderOption = None,
    features: FeaturesOption = "both",
    backbone: BackboneOption = None,
    false_alarm_rate: FalseAlarmRateOption = 0.05,
    only_class: OnlyClassOption = None,
    series: SeriesOption = None,
    leave_out: LeaveOutOption = None,
) -> None:
    """Make a claims desk of past photos. It is an index to search and a detector of what was never seen."""
    from vae_ldm.desk.novelty.reference_photos import check_photos

    check_photos(
        photos,
        false_alarm_rate=false_alarm_rate,
        only_classes=only_class or (),
        series=series,
        leave_out=leave_out,
    )

    from vae_ldm.desk.claim.claim import build_desk

    build_desk(
        desk,
        photos,
        model=model,
        features=features,
        backbone=backbone,
        false_alarm_rate=false_alarm_rate,
        only_classes=only_class or (),
        series=series,
        leave_out=leave_out,
    )


def claim(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="The photo of a new claim.", callback=paths.one_photo)],
    desk: Annotated[
        Path, typer.Option(metavar="DESK", help="A folder that vae-ldm desk has made.", callback=paths.desk)
    ],
    out: Annotated[Path | None, page_option("claim.html")] = None,
    model: MovedModelOption = None,
    num_similar: Annotated[
        int, typer.Option("-k", "--num-similar", metavar="N", min=1, max=1000, help="Past photos to show.")
    ] = 5,
    num_variations: Annotated[
        int, typer.Option(metavar="N", min=0, max=1000, help="Variations to draw at each strength.")
    ] = 6,
    seed: SeedOption = 0,
    false_alarm_rate: OtherFalseAlarmRateOption = None,
) -> None:
    """Say whether a photo was seen before and what it resembles. A page shows the details."""
    from vae_ldm.desk.claim.claim import claim as put_before

    with new_place(out, "claim.html") as page:
        put_before(
            photo,
            desk,
            out=page,
            model=model,
            num_similar=num_similar,
            num_variations=num_variations,
            seed=seed,
            false_alarm_rate=false_alarm_rate,
        )
