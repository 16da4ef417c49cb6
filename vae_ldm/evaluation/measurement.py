"""One number together with what it was measured on: the unit of metrics.json and of the report."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from vae_ldm.choices import Stage
from vae_ldm.evaluation.interval import Interval, bootstrap_interval, share_interval

Better = Literal["higher", "lower"]
ReferenceKind = Literal["floor", "limit", "comparison"]


@dataclass(frozen=True)
class Reference:
    """What a number is put beside.

    A floor is there to be cleared. A limit is what real pictures reach: nobody is blamed for not passing it.
    A comparison is no bar at all. `interval` is its own 95 % interval, `difference` that of value minus reference
    where both are of the same pictures.
    """

    value: float
    name: str
    kind: ReferenceKind
    interval: Interval | None = None
    difference: Interval | None = None


@dataclass(frozen=True)
class Measurement:
    """A number that can be read on its own: what it is, on which pictures, and what a good one would be.

    `reference_name` says what `reference` is and `reference_kind` what it is for; `low` and `high` are the ends of a
    95 % interval, and so are `reference_low` and `reference_high`. `difference_low` and `difference_high` are those of
    value minus reference, paired by picture. All of these are in `unit`. A metrics.json of 0.1.0 has neither the kind
    nor the last four.
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
    reference_kind: ReferenceKind | None = None
    reference_low: float | None = None
    reference_high: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    def __post_init__(self) -> None:
        # JSON has no NaN: a number that could not be measured is left out by its maker, never written.
        assert math.isfinite(self.value), f"{self.name} is {self.value}"
        assert (self.reference is None) == (self.reference_name is None), f"{self.name}: a reference goes by a name"

    @classmethod
    def of(
        cls,
        name: str,
        value: float,
        *,
        unit: str = "",
        split: str,
        num_images: int,
        stage: Stage,
        better: Better | None,
        features: str | None = None,
        interval: Interval | None = None,
        reference: Reference | None = None,
    ) -> "Measurement":
        """The measurement of a value with its interval and its reference, where it has them."""
        beside: dict[str, Any] = {}
        if reference is not None:
            beside = {"reference": reference.value, "reference_name": reference.name, "reference_kind": reference.kind}
            for prefix, ends in (("reference", reference.interval), ("difference", reference.difference)):
                if ends is not None:
                    beside |= {f"{prefix}_low": ends.low, f"{prefix}_high": ends.high}
        low, high = (None, None) if interval is None else interval
        return cls(name, value, unit, split, num_images, stage, better, features, low=low, high=high, **beside)

    def as_dict(self) -> dict[str, Any]:
        """All fields, None where a field has nothing to say; `Measurement(**fields)` brings it back."""
        return asdict(self)


def measured_mean(name: str, values: Tensor, *, unit: str, floors: Tensor, floor_name: str) -> Measurement:
    """The mean over validation pictures of values [N], the more the better, beside that of their floors [N].

    The interval of the difference is the bootstrap's over pictures, each beside its own floor.
    """
    return Measurement.of(
        name,
        values.mean().item(),
        unit=unit,
        split="validation",
        num_images=len(values),
        stage="autoencoder",
        better="higher",
        interval=bootstrap_interval(values),
        reference=Reference(
            floors.mean().item(),
            floor_name,
            "floor",
            interval=bootstrap_interval(floors),
            difference=bootstrap_interval(values - floors),
        ),
    )


def measured_share(
    name: str,
    hits: Tensor,
    *,
    split: str,
    stage: Stage,
    better: Better,
    features: str | None = None,
    reference: Reference | None,
) -> Measurement:
    """The share of True among booleans [N], in percent, with Wilson's interval; the reference is in percent as well."""
    return Measurement.of(
        name,
        100 * hits.float().mean().item(),
        unit="%",
        split=split,
        num_images=len(hits),
        stage=stage,
        better=better,
        features=features,
        interval=percent(share_interval(int(hits.sum()), len(hits))),
        reference=reference,
    )


def percent(interval: Interval) -> Interval:
    """An interval of shares in percent."""
    return Interval(100 * interval.low, 100 * interval.high)


def share_beside(hits: Tensor, others: Tensor, name: str, kind: ReferenceKind) -> Reference:
    """The share of True among `others` [N], booleans of the same pictures as `hits` [N], as a reference in percent."""
    difference = bootstrap_interval(hits.double() - others.double())
    return Reference(
        100 * others.float().mean().item(),
        name,
        kind,
        interval=percent(share_interval(int(others.sum()), len(others))),
        difference=None if difference is None else percent(difference),
    )
