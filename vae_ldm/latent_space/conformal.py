"""P-values that need no model of the scores: conformal prediction (Vovk, Gammerman & Shafer 2005).

Split: where a new photo is one more of the same kind as the calibration photos, which nothing was fitted on, all orders
of their scores are equally likely. So its p-value is at most p with probability p or less, whatever the score is.

Cross-conformal (Vovk 2015, CV+ of Barber et al. 2021): every photo is both fitted on and calibrated by, the latter with
a fit that has not seen its fold. What is promised is weaker (`cross_promise`), what is held is about the same.
"""

from dataclasses import dataclass
from typing import Self

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


def threshold(calibration: Tensor, false_alarm_rate: float, groups: Tensor | None = None) -> float:
    """The score above which, and not at which, the p-value is at most `false_alarm_rate`.

    `calibration` are scores [n], of photos of `groups` [n]; photos of one group weigh as one photo together. Raises
    ValueError where there are fewer groups than `photos_needed`.
    """
    weights, num_groups = _group_weights(torch.arange(len(calibration)) if groups is None else groups)
    most = false_alarm_rate * (num_groups + 1) - 1 + 1e-9
    if most < 0:
        needed = photos_needed(false_alarm_rate)
        raise ValueError(f"a rate of {false_alarm_rate} needs {counted(needed, 'calibration photo')}, not {num_groups}")
    falling, order = calibration.sort(descending=True)
    together = weights[order].cumsum(dim=0)
    return falling[int((together <= most).sum().clamp(max=len(falling) - 1))].item()


def cross_p_values(scores: Tensor, held_out: Tensor, folds: Tensor, groups: Tensor) -> Tensor:
    """P-values [B] or [B, P] of scores [K, B] or [K, B, P]: those of `CrossCalibration`, asked once."""
    return CrossCalibration.fit(held_out, folds, groups, len(scores))(scores)


@dataclass(frozen=True, eq=False)
class CrossCalibration:
    """Held-out scores in order, fold by fold, for p-values of many new photos."""

    ordered: tuple[Tensor, ...]
    """Of each fold, [n_k], rising"""
    together: tuple[Tensor, ...]
    """What the scores from each one up weigh together, [n_k + 1], float64; the last is 0."""
    num_groups: int

    @classmethod
    def fit(cls, held_out: Tensor, folds: Tensor, groups: Tensor, num_folds: int) -> Self:
        """Of held-out scores [n], each by the fit without its fold, `folds` [n] in 0 .. num_folds - 1.

        Photos of one group, `groups` [n], weigh as one photo together, because a new photo is of a group of its own
        (Lee, Barber & Willett 2023, Distribution-free inference with hierarchical data).
        """
        weights, num_groups = _group_weights(groups)
        ordered, together = [], []
        for fold in range(num_folds):
            rows = (folds == fold).nonzero().flatten()
            rising, order = held_out[rows].sort()
            above = weights[rows[order]].flip(0).cumsum(dim=0).flip(0)
            ordered.append(rising)
            together.append(torch.cat([above, above.new_zeros(1)]))
        return cls(tuple(ordered), tuple(together), num_groups)

    def __call__(self, scores: Tensor) -> Tensor:
        """(1 + weight of the held-out scores at least as high) / (number of groups + 1): [B] or [B, P].

        `scores` [K, B] or [K, B, P] are what the fits without each fold say of new photos (or of their places); each is
        compared with what the same fit says of the photos of its fold. High scores are strange.
        """
        num_as_high = torch.zeros(scores.shape[1:], dtype=torch.float64)
        for asked, ordered, together in zip(scores, self.ordered, self.together, strict=True):
            num_as_high += together[torch.searchsorted(ordered, asked.contiguous())]
        return (1 + num_as_high) / (self.num_groups + 1)


def cross_promise(false_alarm_rate: float, num_calibration: int, num_folds: int) -> float:
    """At most so often is a cross-conformal p-value of a usual photo at or below the rate, whatever the score is.

    Twice the rate and a little more, for folds of one size (Barber, Candes, Ramdas & Tibshirani 2021, Predictive
    inference with the jackknife+, theorem 4). Fits that change little from fold to fold hold the rate itself.
    """
    excess = min(
        2 * (1 - 1 / num_folds) / (num_calibration / num_folds + 1), (1 - num_folds / num_calibration) / (num_folds + 1)
    )
    return min(1.0, 2 * false_alarm_rate + excess)


def _group_weights(groups: Tensor) -> tuple[Tensor, int]:
    """What each photo weighs, float64 [n], so that each of `groups` [n] weighs 1, and how many groups there are."""
    _, members, counts = groups.unique(return_inverse=True, return_counts=True)
    return 1 / counts[members].double(), len(counts)
