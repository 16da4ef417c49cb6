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


def crossed_interval(values: Tensor, classes: Tensor, *, num_resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile interval of the class-balanced mean of values [S, N]: S repetitions on the same N pictures.

    Repetitions are drawn again with replacement, and so are pictures within each of the `classes` [N], both at once
    (the pigeonhole bootstrap, Owen 2007, which errs on the wide side): what it says holds for other seeds and for other
    pictures. Of paired differences it is the interval of the difference.
    """
    generator = torch.Generator().manual_seed(seed)
    repetitions = torch.randint(len(values), (num_resamples, len(values)), generator=generator)
    weights = torch.nn.functional.one_hot(repetitions, len(values)).sum(dim=1).double() / len(values)
    by_picture = weights @ values.double()
    means = []
    for label in classes.unique():
        members = by_picture[:, classes == label]
        again = torch.randint(members.shape[1], members.shape, generator=generator)
        means.append(members.gather(1, again).mean(dim=1))
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.stack(means).mean(dim=0).quantile(quantiles).tolist()
    return Interval(low, high)
