"""One number together with what it was measured on: the unit of metrics.json and of the report."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal


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
    stage: Literal["autoencoder", "diffusion"]
    better: Literal["higher", "lower"] | None = None
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
