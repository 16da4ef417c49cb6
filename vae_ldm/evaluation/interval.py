"""95 % intervals, so that a difference in a table can be told from chance."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Standard normal quantile of 97.5 %.
Z = 1.96
# Those of Student's t with 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Interval(NamedTuple):
    low: float
    high: float


def bootstrap_interval(values: Tensor, *, num_resamples: int = 1000, seed: int = 0) -> Interval | None:
    """Percentile interval of the mean of values [N], by drawing pictures again with replacement (Efron 1979).

    None for a single value, which says nothing of its own spread.
    """
    if len(values) == 1:
        return None
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
    # At 0 and at 1 the ends are exact, less what rounding leaves.
    return Interval(0.0 if hits == 0 else center - half, 1.0 if hits == total else center + half)


def difference_interval(value: float, interval: Interval, other: float, other_interval: Interval | None) -> Interval:
    """Interval of value - other, which were measured apart, from those of each (Zou & Donner 2008).

    None: `other` is known exactly.
    """
    other_low, other_high = (other, other) if other_interval is None else other_interval
    difference = value - other
    return Interval(
        difference - math.hypot(value - interval.low, other_high - other),
        difference + math.hypot(interval.high - value, other - other_low),
    )


def crossed_interval(values: Tensor, classes: Tensor) -> Interval:
    """95 % interval of the class-balanced mean of values [S, N]: S repetitions on the same N pictures, S at least 2.

    It holds for other seeds and for other pictures: the variance is that of the seeds' means plus that of the pictures'
    means within their classes, which is the pigeonhole bootstrap (Owen 2007) in closed form and errs on the wide side.
    Few seeds tell little of their own spread, so their part goes by Student's t with S - 1 degrees of freedom. For
    paired differences it is the interval of the difference.
    """
    members = [values[:, classes == label].double() for label in classes.unique()]
    by_seed = torch.stack([of_class.mean(dim=1) for of_class in members]).mean(dim=0)
    spread_of_seeds = by_seed.std().item() / len(values) ** 0.5
    by_picture = [of_class.mean(dim=0) for of_class in members]
    # A class of one picture says nothing of its own spread and borrows that of the others.
    known = [of_class.var().item() for of_class in by_picture if len(of_class) > 1]
    pooled = sum(known) / len(known) if known else torch.cat(by_picture).var(correction=0).item()
    variances = [(of_class.var().item() if len(of_class) > 1 else pooled) / len(of_class) for of_class in by_picture]
    spread_of_pictures = sum(variances) ** 0.5 / len(members)
    half = math.hypot(_t_quantile(len(values) - 1) * spread_of_seeds, Z * spread_of_pictures)
    center = by_seed.mean().item()
    return Interval(center - half, center + half)


def _t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t, from the table or by Fisher's expansion, to .001."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    return Z + (Z**3 + Z) / (4 * degrees) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * degrees**2)
