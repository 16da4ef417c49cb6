"""Arguments and options that the verbs of the claims desk have in common."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Features(StrEnum):
    """What photos are compared by, as `vae_ldm.latent_space.features.FeatureKind`."""

    LATENTS = "latents"
    BACKBONE = "backbone"
    BOTH = "both"


PhotosArgument = Annotated[Path, typer.Argument(metavar="PHOTOS", help="A folder of photos, of any layout, or one.")]
EncoderOption = Annotated[
    str, typer.Option("--model", metavar="RUN", help="A run, an autoencoder's folder or ORG/NAME of the Hub.")
]
MovedModelOption = Annotated[
    str | None, typer.Option("--model", metavar="RUN", help="Where the model lies now, if it has been moved.")
]
FeaturesOption = Annotated[Features, typer.Option(help="What photos are compared by.")]
BackboneOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="A vision model of transformers; by default EfficientNet-Lite0.")
]
FalseAlarmRateOption = Annotated[
    float, typer.Option(metavar="RATE", help="Share of usual photos that may be called novel.")
]
