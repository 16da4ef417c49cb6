"""The verbs about novelty: fit a detector, judge photos by it."""

from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.choices import ScoreName
from vae_ldm.cli import paths
from vae_ldm.cli.options import (
    BackboneOption,
    EncoderOption,
    FalseAlarmRateOption,
    FeaturesOption,
    MovedModelOption,
    OnlyClassOption,
    PhotosArgument,
    one_of,
    table_option,
)
from vae_ldm.paths import new_place

app = typer.Typer(help="Say which photos show what was never seen.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def fit(
    photos: PhotosArgument,
    model: EncoderOption,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DETECTOR", help="The folder that the detector is written to.", callback=paths.detector_place
        ),
    ],
    features: FeaturesOption = "both",
    backbone: BackboneOption = None,
    score: Annotated[
        ScoreName, typer.Option(metavar=one_of(ScoreName), help="The score that decides; the table has all of them.")
    ] = "combination",
    false_alarm_rate: FalseAlarmRateOption = 0.05,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|FOLDER",
            help="Photos to calibrate on; by default a third of PHOTOS, held out.",
            callback=paths.share_or_photos,
        ),
    ] = None,
    only_class: OnlyClassOption = None,
) -> None:
    """Fit a detector on photos of the usual kind."""
    from vae_ldm.desk.novelty.reference_photos import check_photos

    held_out = 1 / 3 if calibration is None else _share_or_folder(calibration)
    check_photos(photos, false_alarm_rate=false_alarm_rate, calibration=held_out, only_classes=only_class or ())

    from vae_ldm.desk.novelty.novelty import fit as fit_detector

    fit_detector(
        photos,
        model=model,
        out=out,
        features=features,
        backbone=backbone,
        score=score,
        false_alarm_rate=false_alarm_rate,
        calibration=held_out,
        only_classes=only_class or (),
    )


@app.command()
def score(
    photos: PhotosArgument,
    detector: Annotated[
        Path, typer.Argument(metavar="DETECTOR", help="What novelty fit has written.", callback=paths.detector)
    ],
    out: Annotated[Path | None, table_option("scores.csv")] = None,
    heat_maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new folder for pictures that show where each photo is unusual.",
            callback=paths.new_folder,
        ),
    ] = None,
    model: MovedModelOption = None,
) -> None:
    """Judge photos by a detector. A table holds the verdict, the p-value and every score."""
    from vae_ldm.desk.novelty.novelty import score as score_photos

    with new_place(out, "scores.csv") as table:
        score_photos(photos, detector, out=table, heat_maps=heat_maps, model=model)


def _share_or_folder(text: str) -> float | Path:
    try:
        return float(text)
    except ValueError:
        return Path(text)
