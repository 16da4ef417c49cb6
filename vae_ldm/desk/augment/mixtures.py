"""Whether synthetic photos help: one classifier on many mixtures, judged on held-out real photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vae_ldm.errors import DataError
from vae_ldm.evaluation.interval import Interval, crossed_interval
from vae_ldm.evaluation.small_classifiers import Learner

SHARES = (0.1, 0.3, 1.0)
"""Synthetic photos added, as a share of the real ones."""
MARGIN = 0.01
"""A gain below one point of accuracy is no help worth having."""
_NO_WIDTH = 1e-6
"""An interval as narrow as this does not count: all differences are equal but for rounding."""
REAL, JITTERED = "real only", "+100 % flipped, jittered"
ProofVerdict = Literal["helped", "did not help", "cannot be told"]


def arm_name(share: float) -> str:
    """What a mixture is called: real photos, and synthetic ones as this share of them."""
    return f"+{100 * share:.0f} % synthetic"


ARMS = (REAL, *map(arm_name, SHARES), JITTERED)
LARGEST = arm_name(max(SHARES))


class Difference(NamedTuple):
    """A gain in balanced accuracy, in [-1, 1], with its 95 % interval."""

    value: float
    interval: Interval | None
    """None where seeds and photos do not differ at all: too few of them to tell how far the gain may be off."""


@dataclass(frozen=True, eq=False)
class Pool:
    """All that may be learned from: real training photos, then synthetic ones, then one jittered copy of each photo."""

    labels: Tensor
    """[N] of the real photos, in [0, num_classes)."""
    synthetic_labels: Tensor
    """[M]"""
    sources: Tensor
    """[M]: the real photo that a synthetic one was made from, -1 for none."""
    num_classes: int

    def mixtures(self, shots: int | None, seed: int) -> dict[str, Tensor]:
        """The rows of the pool that each arm learns, with `shots` real photos a class; None takes all.

        A synthetic photo made from a real one that is not among these is left out: it would show what the classifier
        is not to have seen. Smaller shares are parts of larger ones, and the jittered copies are as many as the largest
        share has, so that arms differ in nothing else.
        """
        generator = torch.Generator().manual_seed(seed)
        rows: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
        num_real, num_synthetic = len(self.labels), len(self.synthetic_labels)
        for label in range(self.num_classes):
            real = _shuffled((self.labels == label).nonzero().flatten(), generator)[:shots]
            mine = (self.synthetic_labels == label) & ((self.sources < 0) | torch.isin(self.sources, real))
            synthetic = _shuffled(mine.nonzero().flatten(), generator)
            for share in SHARES:
                added = synthetic[: max(1, round(share * len(real)))]
                rows[arm_name(share)] += [real, num_real + added]
            rows[REAL].append(real)
            as_many = real[: min(len(synthetic), len(real))]
            rows[JITTERED] += [real, num_real + num_synthetic + as_many]
        return {arm: torch.cat(parts) for arm, parts in rows.items()}

    def row_labels(self, rows: Tensor) -> Tensor:
        """Classes [n] of rows of the pool."""
        return torch.cat([self.labels, self.synthetic_labels, self.labels])[rows]


@dataclass(frozen=True, eq=False)
class Row:
    """Every arm with one number of real photos."""

    shots: int | None
    """A class; None: all."""
    num_real: int
    num_added: dict[str, int]
    """The number of photos that each arm adds to the real ones; with several seeds the fewest."""
    correct: dict[str, Tensor]
    """Booleans [S, V] of each arm, one seed a row, one held-out photo a column."""

    @property
    def name(self) -> str:
        """The first cell of its line."""
        return "all" if self.shots is None else f"{self.shots} a class"

    def has_added(self, arm: str) -> bool:
        """Whether every seed had a photo to add; a mixture without any is the real photos over again."""
        return self.num_added[arm] > 0


@dataclass(frozen=True, eq=False)
class Proof:
    """What every mixture came to, and what follows."""

    rows: list[Row]
    labels: Tensor
    """Classes [V] of the held-out photos."""
    num_seeds: int
    num_steps: int

    def accuracy(self, row: Row, arm: str) -> float:
        """Balanced accuracy in [0, 1] on the held-out photos, the mean over seeds."""
        return balanced_mean(row.correct[arm].float(), self.labels)

    @property
    def judged(self) -> Row:
        """The row of all real photos, the only one in which classifier and generator know the same."""
        return self.rows[-1]

    def gain(self, arm: str, floor: str, row: Row | None = None) -> Difference:
        """The gain of one arm over another in a row (by default `judged`), paired by seed and photo."""
        row = self.judged if row is None else row
        paired = row.correct[arm].float() - row.correct[floor].float()
        low, high = crossed_interval(paired, self.labels)
        interval = Interval(max(low, -1.0), min(high, 1.0)) if high - low > _NO_WIDTH else None
        return Difference(balanced_mean(paired, self.labels), interval)

    @property
    def verdict(self) -> ProofVerdict:
        """The verdict on the largest share of synthetic photos beside all real ones, against both floors.

        Synthetic photos helped where they beat real photos alone and as many flipped and jittered ones, both beyond
        chance. They did not help where a gain of MARGIN over either of them is ruled out. In all other cases, and where
        a gain has no interval, it cannot be told. Rows of fewer photos do not count, because the generator has seen the
        photos that the classifier has not.
        """
        intervals = [self.gain(LARGEST, floor).interval for floor in (REAL, JITTERED)]
        if all(interval is not None and interval.low > 0 for interval in intervals):
            return "helped"
        if any(interval is not None and interval.high < MARGIN for interval in intervals):
            return "did not help"
        return "cannot be told"

    def sentence(self, classifier: str) -> str:
        """The verdict in words, with the numbers it follows from."""
        over_real, over_jittered = (in_points(self.gain(LARGEST, floor)) for floor in (REAL, JITTERED))
        begin = {
            "helped": "Synthetic photos helped",
            "did not help": "Synthetic photos did not help",
            "cannot be told": "Whether synthetic photos help cannot be told",
        }[self.verdict]
        added, real = self.judged.num_added[LARGEST], self.judged.num_real
        return (
            f"{begin}: with {added:,} of them beside all {real:,} real ones, the balanced accuracy of {classifier} on "
            f"{len(self.labels):,} held-out real photos changes, in points, by {over_real} against real photos alone "
            f"and by {over_jittered} against as many flipped and jittered copies ({self.num_seeds} seeds; 95 % "
            "intervals)."
        )


def in_points(gain: Difference) -> str:
    """A gain in points of percent, its interval in brackets."""
    if gain.interval is None:
        return f"{100 * gain.value:+.1f} [too few photos to tell]"
    low, high = (100 * end for end in gain.interval)
    return f"{100 * gain.value:+.1f} [{low:+.1f}, {high:+.1f}]"


def balanced_mean(values: Tensor, classes: Tensor) -> float:
    """Mean of values [S, V] in which each of the `classes` [V] weighs the same."""
    return torch.stack([values[:, classes == label].mean() for label in classes.unique()]).mean().item()


def prove(
    learner: Learner,
    pool: Pool,
    held_out_labels: Tensor,
    *,
    shots: Sequence[int],
    num_seeds: int,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """The learner on every arm, with `shots` real photos a class and with all, `num_seeds` times each.

    A seed draws the real photos, the synthetic ones, the first weights and the batches, all the same in every arm. A
    number of shots that no class has more of than that is left out: it would be all of them. Raises DataError where
    there is no synthetic photo to add to all real ones.
    """
    largest = int(pool.labels.bincount(minlength=pool.num_classes).max())
    lines = [*(number for number in sorted(set(shots)) if number < largest), None]
    mixtures = {number: [pool.mixtures(number, seed) for seed in range(num_seeds)] for number in lines}
    added = {
        number: {arm: min(len(one[arm]) - len(one[REAL]) for one in of_line) for arm in ARMS}
        for number, of_line in mixtures.items()
    }
    if not added[None][LARGEST]:
        raise DataError(
            "not one synthetic photo could be added in any line of the table: each was made from a real photo that is "
            "not among those of its class; draw them from these photos"
        )
    rows, done = [], 0
    for number in lines:
        correct: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
        for seed, of_seed in enumerate(mixtures[number]):
            for arm, chosen in of_seed.items():
                if arm != REAL and torch.equal(chosen, of_seed[REAL]):
                    correct[arm].append(correct[REAL][-1])
                else:
                    seen = learner(chosen, pool.row_labels(chosen), pool.num_classes, seed)
                    correct[arm].append(seen == held_out_labels)
                done += 1
                if progress is not None:
                    progress(done, len(lines) * num_seeds * len(ARMS))
        tables = {arm: torch.stack(found) for arm, found in correct.items()}
        rows.append(Row(number, len(mixtures[number][0][REAL]), added[number], tables))
    return Proof(rows, held_out_labels, num_seeds, learner.num_steps)


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]
