"""A measurement beside its reference: in words, as a grade, and as places on an axis."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from vae_ldm.evaluation.interval import Interval, difference_interval
from vae_ldm.evaluation.measurement import Measurement, ReferenceKind
from vae_ldm.pages.environment import number, quantity, sizes_in_words

_CLOSE = 0.1


@dataclass(frozen=True)
class Verdict:
    """How a measurement stands to its reference; `grade` colours it, `word` says the same without colour.

    "open" has no colour: the pictures are too few to tell.
    """

    grade: Literal["good", "fair", "bad", "open"]
    word: str


@dataclass(frozen=True)
class Strip:
    """Places in percent of a small axis: the value, its reference, the ends of its 95 % interval."""

    value: float
    reference: float | None
    low: float | None
    high: float | None


def verdict(measurement: Measurement) -> Verdict | None:
    """How `measurement` stands to its reference as far as the 95 % interval of their difference tells.

    A floor is cleared where the whole interval is on the better side of it. A limit, which nobody is blamed for not
    passing, is reached where the whole interval is better, or no worse than by a tenth of it. A mean over one picture
    has no interval and decides nothing. None where there is nothing to judge, a mere comparison for instance.
    """
    reference, better = measurement.reference, measurement.better
    kind = _kind(measurement)
    if reference is None or better is None or kind == "comparison":
        return None
    if measurement.num_images == 1 and measurement.low == measurement.high:  # 0.1.0 wrote an interval of no width
        return Verdict("open", "one picture cannot tell")
    difference = _difference(measurement)
    low, high = difference if better == "higher" else (-difference.high, -difference.low)
    if kind == "floor":
        if low > 0:
            return Verdict("good", "clears the floor")
        return Verdict("bad", "misses the floor") if high < 0 else Verdict("fair", "no clear difference from the floor")
    if low > 0:
        return Verdict("good", "reached")
    if low >= -_CLOSE * abs(reference):
        return Verdict("good", "close")
    return Verdict("fair", "falls short") if high < 0 else Verdict("open", "no clear difference")


def _kind(measurement: Measurement) -> ReferenceKind:
    """The kind of the reference; of a metrics.json of 0.1.0, which has none, by the name."""
    if measurement.reference_kind is not None:
        return measurement.reference_kind
    name = str(measurement.reference_name).lower()
    if name == "ceiling on reconstructions":
        return "comparison"  # samples can be easier to tell than photos; version 0.1.0 said ceiling
    bar = "floor" if measurement.better == "higher" else "ceiling"
    return "floor" if bar in name else "limit"


def _difference(measurement: Measurement) -> Interval:
    """The 95 % interval of value minus reference.

    Paired by picture where that was measured, else from the intervals of the two. What has no interval, as all of
    0.1.0 but the value, counts as known exactly.
    """
    assert measurement.reference is not None
    if measurement.difference_low is not None and measurement.difference_high is not None:
        return Interval(measurement.difference_low, measurement.difference_high)
    value = measurement.value
    ends = Interval(
        value if measurement.low is None else measurement.low, value if measurement.high is None else measurement.high
    )
    known = measurement.reference_low is not None and measurement.reference_high is not None
    other = Interval(measurement.reference_low, measurement.reference_high) if known else None  # type: ignore[arg-type]
    return difference_interval(value, ends, measurement.reference, other)


def comparison(measurement: Measurement) -> str:
    """`measurement` against its reference in words, with what is known of the difference.

    "1.87 dB [1.72, 2.02] above PCA floor, 23.90 dB" has in brackets the 95 % interval of the difference by picture.
    """
    assert measurement.reference is not None
    difference = measurement.value - measurement.reference
    sign = math.copysign(1, difference)
    unit = "points" if measurement.unit == "%" else measurement.unit
    gap = quantity(abs(difference), unit)
    if measurement.difference_low is not None and measurement.difference_high is not None:
        ends = sorted(sign * end for end in (measurement.difference_low, measurement.difference_high))
        gap += f" [{', '.join(number(end) for end in ends)}]"
    stands = f"{gap} {'above' if difference > 0 else 'below'}" if difference else "equal to"
    said = f"{stands} {measurement.reference_name}, {quantity(measurement.reference, measurement.unit)}"
    if measurement.reference_low is not None and measurement.reference_high is not None:
        said += f" [{number(measurement.reference_low)}, {number(measurement.reference_high)}]"
    return f"for comparison: {said}" if _kind(measurement) == "comparison" else said


def strip(measurement: Measurement) -> Strip | None:
    """Where value, reference and interval lie on a common axis; None where the value would stand alone."""
    marks = (measurement.value, measurement.reference, measurement.low, measurement.high)
    known = [mark for mark in marks if mark is not None]
    low, high = min(known), max(known)
    if low == high:
        return None
    places = [None if mark is None else round(8 + 84 * (mark - low) / (high - low), 1) for mark in marks]
    assert places[0] is not None
    return Strip(places[0], *places[1:])


def measured_on(measurement: Measurement, data: dict[str, Any]) -> str:
    """What `measurement` was measured on: "341 validation pictures, 64 by 64, features: ..."."""
    pictures = "picture" if measurement.num_images == 1 else "pictures"
    parts = [f"{measurement.num_images:,} {measurement.split} {pictures}"]
    if data.get("image_size"):
        parts.append(sizes_in_words(data))
    if measurement.features:
        parts.append(f"features: {measurement.features}")
    return ", ".join(parts)
