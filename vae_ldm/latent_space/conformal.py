"""P-values that need no model of the scores: split conformal prediction (Vovk, Gammerman & Shafer 2005).

Where a new photo is one more of the same kind as the calibration photos, which nothing was fitted on, all orders of
their scores are equally likely. So its p-value is at most p with probability p or less, whatever the score is.
"""

import math

import numpy as np
import torch
from torch import Tensor

from vae_ldm.text import counted


def p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """(1 + number of calibration scores at least as high) / (n + 1): [B], in [1 / (n + 1), 1].

    The p-values [B] of scores [B], given calibration scores [n]; high scores are strange.
    """
    ordered = calibration.sort().values
    num_as_high = len(ordered) - torch.searchsorted(ordered, scores.contiguous())
    return (1 + num_as_high).double() / (len(ordered) + 1)


def threshold(calibration: Tensor, false_alarm_rate: float) -> float:
    """The score above which, and not at which, the p-value is at most `false_alarm_rate`.

    Raises ValueError where there are fewer calibration scores than `photos_needed`.
    """
    rank = math.floor(false_alarm_rate * (len(calibration) + 1) + 1e-9)
    if rank < 1:
        needed = photos_needed(false_alarm_rate)
        raise ValueError(
            f"a rate of {false_alarm_rate} needs {counted(needed, 'calibration photo')}, not {len(calibration)}"
        )
    return calibration.sort(descending=True).values[rank - 1].item()


def true_rates(num_calibration: int, false_alarm_rate: float) -> tuple[float, float]:
    """Between which shares of usual photos, with 95 % confidence, a threshold of so many photos really alarms.

    Given its calibration photos a threshold has one true rate, which is Beta distributed over the draw of these photos
    (Vovk 2012, Conditional validity of inductive conformal predictors).
    """
    above = max(1, math.floor(false_alarm_rate * (num_calibration + 1) + 1e-9))
    drawn = np.random.default_rng(0).beta(above, num_calibration + 1 - above, 100_000)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def photos_needed(false_alarm_rate: float) -> int:
    """How many calibration photos it takes for a p-value to come down to `false_alarm_rate`, in (0, 1)."""
    return math.ceil(1 / false_alarm_rate - 1e-9) - 1
