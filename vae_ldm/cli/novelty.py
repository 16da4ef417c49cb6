"""The verbs about novelty: fit a detector, judge photos by it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.cli.desk_options import (
    BackboneOption,
    EncoderOption,
    FalseAlarmRateOption,
    Features,
    FeaturesOption,
    MovedModelOption,
    PhotosArgument,
)
from vae_ldm.errors import VaeLdmError

app = typer.Typer(help="Say which photos show what was never seen.", no_args_is_help=True, rich_markup_mode=None)


class Score(StrEnum):
    """What decides."""

    COMBINATION = "combination"
    KNN = "knn"
    MAHALANOBIS = "mahalanobis"
    PATCH = "patch"
    PIXELS = "pixels"
    RECONSTRUCTION = "reconstruction"
    ELBO = "elbo"


@app.command()
def fit(
    photos: PhotosArgument,
    model: EncoderOption,
    out: Annotated[Path, typer.Option(metavar="DETECTOR", help="The folder that the detector is written to.")],
    features: FeaturesOption = Features.BOTH,
    backbone: BackboneOption = None,
    score: Annotated[Score, typer.Option(help="What decides; all are in the table.")] = Score.COMBINATION,
    false_alarm_rate: FalseAlarmRateOption = 0.05,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="SHARE|FOLDER", help="Photos to calibrate on; by default a third of PHOTOS, held out."),
    ] = None,
    only_class: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Take photos of this class only, such as good; may be repeated."),
    ] = None,
) -> None:
    """Fit a detector on photos of the usual kind."""
    from vae_ldm.desk.novelty.novelty import fit as fit_detector

    fit_detector(
        photos,
        model=model,
        out=out,
        features=features.value,
        backbone=backbone,
        score=score.value,
        false_alarm_rate=false_alarm_rate,
        calibration=1 / 3 if calibration is None else _share_or_folder(calibration),
        only_classes=only_class or (),
    )


@app.command()
def score(
    photos: PhotosArgument,
    detector: Annotated[Path, typer.Argument(metavar="DETECTOR", help="What novelty fit has written.")],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="The table, one line a photo.")] = Path(
        "scores.csv"
    ),
    heat_maps: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Pictures of where each photo departs go here."),
    ] = None,
    model: MovedModelOption = None,
) -> None:
    """Judge photos by a detector: verdict, p-value and every score into a table."""
    from vae_ldm.desk.novelty.novelty import score as score_photos

    score_photos(photos, detector, out=out, heat_maps=heat_maps, model=model)


def _share_or_folder(text: str) -> float | Path:
    try:
        return float(text)
    except ValueError:
        pass
    if not Path(text).expanduser().exists():
        raise VaeLdmError(f"{text}: is neither a share such as 0.3 nor a folder of photos to calibrate on")
    return Path(text)
