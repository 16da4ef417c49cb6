"""P-values that need no model of the scores: split conformal prediction (Vovk, Gammerman & Shafer 2005).

Where a new photo is one more of the same kind as the calibration photos, which nothing was fitted on, all orders of
their scores are equally likely. So its p-value is at most p with probability p or less, whatever the score is.
"""

import math

import torch
from torch import Tensor

from vae_ldm.latent_space.false_alarms import photos_needed
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
