"""95 % intervals, so that a difference in a table can be told from chance."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Standard normal quantile of 97.5 %.
Z = 1.96


class Interval(NamedTuple):
    low: float
    high: float


def bootstrap_interval(values: Tensor, *, num_resamples: int = 1000, seed: int = 0) -> Interval:
    """Percentile interval of the mean of values [N], by drawing pictures again with replacement (Efron 1979)."""
    generator = torch.Generator().manual_seed(seed)
    # One resample at a time: num_resamples x N indices at once would not fit for a large set.
    means = [
        values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(num_resamples)
    ]
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(low, high)


def share_interval(hits: int, total: int) -> Interval:
    """Wilson's interval (1927) of a share, in [0, 1]; unlike the bootstrap it stays honest at 0 and at 1."""
    share = hits / total
    center = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return Interval(max(center - half, 0.0), min(center + half, 1.0))
