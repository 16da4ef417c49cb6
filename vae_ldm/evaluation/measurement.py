"""One number together with what it was measured on: the unit of metrics.json and of the report."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from vae_ldm.evaluation.interval import bootstrap_interval, share_interval

Stage = Literal["autoencoder", "diffusion"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measurement:
    """A number that can be read on its own: what it is, on which pictures, and what a good one would be.

    `reference` is a floor or a ceiling (`reference_name` says which), `low` and `high` the ends of a 95 % interval.
    """

    name: str
    value: float
    unit: str
    split: str
    num_images: int
    stage: Stage
    better: Better | None = None
    features: str | None = None
    reference: float | None = None
    reference_name: str | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        # JSON has no NaN: a number that could not be measured is left out by its maker, never written.
        assert math.isfinite(self.value), f"{self.name} is {self.value}"
        assert (self.reference is None) == (self.reference_name is None), f"{self.name}: a reference goes by a name"

    def as_dict(self) -> dict[str, Any]:
        """All fields, None where a field has nothing to say; `Measurement(**fields)` brings it back."""
        return asdict(self)


def measured_mean(name: str, values: Tensor, *, unit: str, reference: float, reference_name: str) -> Measurement:
    """The mean over validation pictures of values [N], the more the better, with its bootstrap interval."""
    low, high = bootstrap_interval(values)
    return Measurement(
        name,
        values.mean().item(),
        unit,
        "validation",
        len(values),
        "autoencoder",
        better="higher",
        reference=reference,
        reference_name=reference_name,
        low=low,
        high=high,
    )


def measured_share(
    name: str,
    hits: Tensor,
    *,
    split: str,
    stage: Stage,
    better: Better,
    features: str | None = None,
    reference: float | None,
    reference_name: str,
) -> Measurement:
    """The share of True among booleans [N], in percent, with Wilson's interval; `reference` is in percent as well."""
    low, high = share_interval(int(hits.sum()), len(hits))
    return Measurement(
        name,
        100 * hits.float().mean().item(),
        "%",
        split,
        len(hits),
        stage,
        better=better,
        features=features,
        reference=reference,
        reference_name=None if reference is None else reference_name,
        low=100 * low,
        high=100 * high,
    )
