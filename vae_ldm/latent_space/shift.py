"""Whether the photos of now are like those that calibrated: the p-values of both, compared as two samples.

A p-value says of one photo whether it is unusual. Of many photos together p-values say more: they are uniform where the
photos are of the same kind as the calibration photos, up to the chance that lies in both samples.

torchmetrics has no Kolmogorov-Smirnov test, and scipy is no dependency.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

USUAL_ABOVE = 0.2
"""Where a photo's p-value is above, little says that it is novel."""

_NUM_TERMS = 100


@dataclass(frozen=True)
class ShiftTest:
    """How the p-values of new photos differ from those of calibration photos."""

    num_calibration: int
    """Groups of calibration photos."""
    num_new: int
    """Groups of new photos."""
    distance: float
    """The largest gap between both distribution functions, in [0, 1]."""
    p_value: float
    """How often photos of the same kind have a gap at least as large by chance, in [0, 1]."""
    usual_distance: float
    """The same gap of the p-values above `USUAL_ABOVE` alone; 0 where there are none on a side."""
    usual_p_value: float
    stranger: bool
    """Whether small p-values are more frequent than in calibration at the largest gap; else they are less frequent."""
    share_novel: float
    """About the share of new photos that are novel, in [0, 1], if the others are of the same kind as before.

    What is missing above `USUAL_ABOVE`, as a share of what is expected there (Storey 2002, A direct approach to false
    discovery rates, equation 6, with calibration's own share in place of 1 - `USUAL_ABOVE`).
    """

    def kind(self, level: float = 0.05) -> Literal["none", "some novel", "all different"]:
        """Which change of the photos both tests speak for, each of them at `level`.

        "some novel" where the test of all p-values rejects and that of the usual ones does not: small p-values are too
        many, and the other photos are like those of before. "all different" where both reject: then the usual photos
        have changed too. A small change of all photos is first seen as "some novel", because the second test has fewer
        photos and a smaller gap to see; a hundred more photos tell. Photos that are less strange than before are never
        "some novel".
        """
        if self.p_value > level:
            return "none"
        return "some novel" if self.stranger and self.usual_p_value > level else "all different"


def shift_test(
    new: Tensor, calibration: Tensor, *, new_groups: Tensor | None = None, calibration_groups: Tensor | None = None
) -> ShiftTest:
    """Whether p-values `new` [n] of unlabelled photos are distributed as those of calibration photos, [N].

    Those of calibration are held-out p-values (`CrossFittedDetector.held_out_p_values`). Both are ranks among the same
    calibration scores and keep their order, so this is the two-sample test of the scores themselves: that calibration
    photos are finite in number is part of it. Photos of one group (int64 [n] and [N]; without them each photo is one)
    weigh as one photo together, and groups are counted, not photos.

    Raises ValueError where a side has no photo.
    """
    if not len(new) or not len(calibration):
        raise ValueError("the test of a shift takes at least one new photo and one calibration photo")
    now, num_new = _weights(new, new_groups)
    then, num_calibration = _weights(calibration, calibration_groups)
    distance, stranger = _largest_gap(new, now, calibration, then)
    usual_now, usual_then = new > USUAL_ABOVE, calibration > USUAL_ABOVE
    share_now, share_then = now[usual_now].sum().item(), then[usual_then].sum().item()
    usual_distance = 0.0
    if share_now > 0 and share_then > 0:
        usual_distance, _ = _largest_gap(
            new[usual_now], now[usual_now] / share_now, calibration[usual_then], then[usual_then] / share_then
        )
    return ShiftTest(
        num_calibration,
        num_new,
        distance,
        kolmogorov_smirnov_p_value(distance, num_new, num_calibration),
        usual_distance,
        kolmogorov_smirnov_p_value(usual_distance, num_new * share_now, num_calibration * share_then),
        stranger,
        max(0.0, 1 - share_now / share_then) if share_then > 0 else 0.0,
    )


def kolmogorov_smirnov_p_value(distance: float, num_some: float, num_others: float) -> float:
    """How often two samples of one distribution have a gap of at least `distance`, in [0, 1].

    Kolmogorov's limit at (sqrt(m) + .12 + .11 / sqrt(m)) times the gap, m = n N / (n + N) (Stephens 1970, Use of the
    Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables; for two samples as in Press et
    al., Numerical Recipes, section 14.3). 1 where a side has no photo.
    """
    if num_some <= 0 or num_others <= 0:
        return 1.0
    root = math.sqrt(num_some * num_others / (num_some + num_others))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:  # the series is 1 to more than ten digits here, and needs many terms to get there
        return 1.0
    terms = ((-1) ** (term - 1) * math.exp(-2 * (term * scaled) ** 2) for term in range(1, _NUM_TERMS + 1))
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def _weights(values: Tensor, groups: Tensor | None) -> tuple[Tensor, int]:
    """Weights [n] that sum to 1, the same for each group, and the number of groups."""
    if groups is None:
        return torch.full((len(values),), 1 / len(values), dtype=torch.float64), len(values)
    _, members, counts = groups.unique(return_inverse=True, return_counts=True)
    return 1 / counts[members].double() / len(counts), len(counts)


def _largest_gap(some: Tensor, some_weights: Tensor, others: Tensor, other_weights: Tensor) -> tuple[float, bool]:
    """The largest gap between two weighted distribution functions, and whether that of `some` is the higher one."""
    values = torch.cat([some, others]).double()
    steps = torch.cat([some_weights, -other_weights])
    ordered, order = values.sort()
    gaps = steps[order].cumsum(dim=0)
    # Within a tie the sum is half done; only its last value is one of the distribution functions.
    last = torch.cat([ordered[1:] > ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])
    gaps = gaps[last]
    row = int(gaps.abs().argmax())
    return min(1.0, gaps[row].abs().item()), bool(gaps[row] > 0)
