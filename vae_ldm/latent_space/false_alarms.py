"""How many calibration photos a false-alarm rate takes, and how well so many hold it. No torch in here."""

import math

import numpy as np


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


def rate_to_name(num_calibration: int) -> str:
    """The least false-alarm rate of two digits for which so many calibration photos are enough."""
    rate = 1 / (num_calibration + 1)
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return f"{math.ceil(rate / unit - 1e-6) * unit:.2g}"
