"""A measurement beside its reference: in words, as a grade, and as places on an axis."""

from dataclasses import dataclass
from typing import Any, Literal

from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.pages.environment import image_size, quantity


@dataclass(frozen=True)
class Verdict:
    """How a measurement stands to its reference; `grade` colours it, `word` says the same without colour."""

    grade: Literal["good", "fair", "bad"]
    word: str


@dataclass(frozen=True)
class Strip:
    """Places in percent of a small axis: the value, its reference, the ends of its 95 % interval."""

    value: float
    reference: float | None
    low: float | None
    high: float | None


def verdict(measurement: Measurement) -> Verdict | None:
    """Whether `measurement` clears its reference, or None where there is nothing to judge.

    A floor of something that should be high is there to be cleared; so is a ceiling of something that should be
    low. Any other reference is a limit nobody is blamed for not passing: within a tenth of it is close.
    """
    reference, better = measurement.reference, measurement.better
    if reference is None or better is None:
        return None
    bar, limit = ("floor", "ceiling") if better == "higher" else ("ceiling", "floor")
    ahead = measurement.value - reference if better == "higher" else reference - measurement.value
    name = str(measurement.reference_name).lower()
    if bar in name:
        return Verdict("good", f"clears the {bar}") if ahead > 0 else Verdict("bad", f"misses the {bar}")
    mark = limit if limit in name else "reference"
    if ahead >= 0:
        return Verdict("good", f"reaches the {mark}")
    is_close = ahead >= -0.1 * abs(reference)
    return Verdict("good", f"close to the {mark}") if is_close else Verdict("fair", f"far from the {mark}")


def comparison(measurement: Measurement) -> str:
    """`measurement` against its reference in words: "1.87 dB above the PCA floor, 23.90 dB"."""
    assert measurement.reference is not None
    difference = measurement.value - measurement.reference
    gap = quantity(abs(difference), "points" if measurement.unit == "%" else measurement.unit)
    stands = f"{gap} {'above' if difference > 0 else 'below'}" if difference else "equal to"
    return f"{stands} {measurement.reference_name}, {quantity(measurement.reference, measurement.unit)}"


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
    if size := data.get("image_size"):
        parts.append(image_size(size))
    if measurement.features:
        parts.append(f"features: {measurement.features}")
    return ", ".join(parts)
