"""The verbs about novelty: fit a detector, judge photos by it."""

from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.cli import paths
from vae_ldm.cli.options import (
    BackboneOption,
    FalseAlarmRateOption,
    LeaveOutOption,
    OnlyClassOption,
    OtherFalseAlarmRateOption,
    PhotosArgument,
    SeriesOption,
    page_option,
    table_option,
)
from vae_ldm.paths import new_place

app = typer.Typer(help="Say which photos show what was never seen.", no_args_is_help=True, rich_markup_mode=None)

DetectorArgument = Annotated[
    Path, typer.Argument(metavar="DETECTOR", help="What novelty fit has written.", callback=paths.detector)
]


@app.command()
def fit(
    photos: PhotosArgument,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DETECTOR", help="The folder that the detector is written to.", callback=paths.detector_place
        ),
    ],
    only_class: OnlyClassOption = None,
    false_alarm_rate: FalseAlarmRateOption = 0.05,
    series: SeriesOption = None,
    leave_out: LeaveOutOption = None,
    backbone: BackboneOption = None,
) -> None:
    """Fit a detector on photos of the usual kind. Other classes of the folder become known damage."""
    from vae_ldm.desk.novelty.reference_photos import check_photos

    check_photos(
        photos,
        false_alarm_rate=false_alarm_rate,
        only_classes=only_class or (),
        series=series,
        leave_out=leave_out,
    )

    from vae_ldm.desk.novelty.fit import fit as fit_detector

    fit_detector(
        photos,
        out=out,
        backbone=backbone,
        false_alarm_rate=false_alarm_rate,
        only_classes=only_class or (),
        series=series,
        leave_out=leave_out,
    )


@app.command()
def score(
    photos: PhotosArgument,
    detector: DetectorArgument,
    out: Annotated[Path | None, table_option("scores.csv")] = None,
    heat_maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new folder for pictures that show where each photo is unusual.",
            callback=paths.heat_map_folder,
        ),
    ] = None,
    false_alarm_rate: OtherFalseAlarmRateOption = None,
) -> None:
    """Judge photos by a detector. A table holds the verdict, the p-value and every score."""
    from vae_ldm.desk.novelty.score import score as score_photos

    with new_place(out, "scores.csv") as table:
        score_photos(photos, detector, out=table, heat_maps=heat_maps, false_alarm_rate=false_alarm_rate)


@app.command()
def inspect(
    detector: DetectorArgument,
    out: Annotated[Path | None, page_option("inspection.html")] = None,
    good: Annotated[
        Path | None,
        typer.Option(metavar="PHOTOS", help="Good photos, to count false alarms on.", callback=paths.photos),
    ] = None,
    bad: Annotated[
        Path | None,
        typer.Option(metavar="PHOTOS", help="Photos of damage, to count what is found.", callback=paths.photos),
    ] = None,
) -> None:
    """Show what is found at which rate, and the oddest usual photos."""
    from vae_ldm.desk.novelty.inspection import inspect_detector

    with new_place(out, "inspection.html") as page:
        inspect_detector(detector, out=page, good=good, bad=bad)
