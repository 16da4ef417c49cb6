"""One score of all families: a soft maximum, whose weights are chosen by least regret on made damage."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.families import FAMILIES, MAIN_FAMILIES, FamilyScales, RawScores
from vae_ldm.latent_space.novelty_scores.photo_features import below
from vae_ldm.latent_space.stored_tensors import check_tensors

WEIGHTS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Of each main family but the first, whose weight is 1."""
OTHER_WEIGHTS = ((0.0, 0.25, 0.5, 1.0), (0.0, 0.35, 0.5))
"""Of activity and of closeness. Up to 2 for activity, or up to 1 for closeness, AUROC on damage_solar falls from .854
to .809 and .828."""
PRICE = 0.01
"""Regret that a weight of 1 for another family must save at least: on damage_solar .853 instead of .849."""
SHARPNESS = 1.5


@dataclass(frozen=True, eq=False)
class SoftMaximum:
    """log sum_f exp(1.5 w_f z_f / d_f) over families of a weight above 0: near the largest, and higher where several
    agree."""

    weights: Tensor
    """[families], float64"""
    deviations: Tensor
    """Of each family over good photos: [families], float64."""

    @classmethod
    def fit(cls, pairs: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """The weights of least regret, of pairs of scores [N, families] of good photos and [M, families] of one kind of
        made damage each.

        The regret of a kind is by how much the AUROC of the best family on it exceeds that of the soft maximum. The
        weights chosen have the least sum of the largest and the mean regret over kinds. The highest mean AUROC instead
        would follow the kinds of which there are most, the small and sharp ones (damage_solar: .843 beside .857).

        The weights of the main families are chosen first, as if there were no others, then those of the others, which
        cost PRICE each: they are there for photos that are too smooth, and 0 where they do not help.
        """
        deviations = torch.stack([usual.std(dim=0, correction=0) for usual, _ in pairs]).mean(dim=0).clamp(min=1e-9)
        scaled = [(usual / deviations, novel / deviations) for usual, novel in pairs]
        num_main = len(MAIN_FAMILIES)
        main = _least_regret(
            [(usual[:, :num_main], novel[:, :num_main]) for usual, novel in scaled],
            [(1.0, *others) for others in itertools.product(WEIGHTS, repeat=num_main - 1)],
        )
        others = itertools.product(*OTHER_WEIGHTS)
        return cls(_least_regret(scaled, [(*main.tolist(), *weights) for weights in others]), deviations)

    @classmethod
    def even(cls) -> Self:
        """All families but the last alike, where there is no made damage to choose by."""
        weights = torch.ones(len(FAMILIES), dtype=torch.float64)
        weights[-1] = 0
        return cls(weights, torch.ones_like(weights))

    def __call__(self, families: Tensor) -> Tensor:
        """[N] of scores [N, families]."""
        return _soft_maximum(families / self.deviations, self.weights[None])[:, 0]


@dataclass(frozen=True, eq=False)
class FamilyCombination:
    """From the scores of the families to one score, and to one a family. About 0 for good photos."""

    kinds: Tensor
    """Which kinds of made damage count: bool [kinds]."""
    scales: FamilyScales
    soft_maximum: SoftMaximum
    center: Tensor
    """Mean of the soft maximum over good photos: [], float64."""
    deviation: Tensor
    """Its standard deviation: [], float64."""

    @classmethod
    def fit(cls, good: RawScores, made: RawScores, made_kinds: Tensor, kinds: Tensor) -> Self:
        """The combination fitted on good photos and on copies, none of which the scores were fitted on.

        The copies are of `made_kinds`, int64 [M]; those marked in `kinds`, bool [kinds], count. Where a kind is judged,
        directions know the other kinds only: otherwise the choice would trust them by what they were fitted on.
        """
        pairs = []
        for kind in kinds.nonzero().flatten().tolist():
            others, novel = kinds.clone(), made[(made_kinds == kind).nonzero().flatten()]
            others[kind] = False
            if len(novel) and others.any():
                usual = good.logarithms(others)
                scales = FamilyScales.fit(usual)
                pairs.append((scales(usual), scales(novel.logarithms(others))))
        soft_maximum = SoftMaximum.fit(pairs) if pairs else SoftMaximum.even()
        usual = good.logarithms(kinds)
        scales = FamilyScales.fit(usual)
        combined = soft_maximum(scales(usual))
        return cls(kinds.clone(), scales, soft_maximum, combined.mean(), combined.std(correction=0).clamp(min=1e-9))

    def families(self, raw: RawScores) -> Tensor:
        """Scores [N, families], each in standard deviations over good photos."""
        return self.scales(raw.logarithms(self.kinds)) / self.soft_maximum.deviations

    def __call__(self, raw: RawScores) -> Tensor:
        """Scores [N], float64, in standard deviations over good photos."""
        return (self.soft_maximum(self.scales(raw.logarithms(self.kinds))) - self.center) / self.deviation

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {
            "kinds": self.kinds,
            **{f"scales.{name}": tensor for name, tensor in self.scales.tensors().items()},
            "weights": self.soft_maximum.weights,
            "deviations": self.soft_maximum.deviations,
            "center": self.center,
            "deviation": self.deviation,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], num_kinds: int, num_layouts: int) -> Self:
        """The combination that `tensors()` came from. Raises KeyError where one is missing, ValueError for others."""
        check_tensors(tensors, {"kinds": (num_kinds,)}, dtype=torch.bool)
        per_family = (len(FAMILIES),)
        check_tensors(
            tensors,
            {"weights": per_family, "deviations": per_family, "center": (), "deviation": ()},
            dtype=torch.float64,
        )
        return cls(
            tensors["kinds"],
            FamilyScales.from_tensors(below(tensors, "scales"), num_layouts),
            SoftMaximum(tensors["weights"], tensors["deviations"]),
            tensors["center"],
            tensors["deviation"],
        )


def auroc(usual: Tensor, novel: Tensor) -> Tensor:
    """Share of pairs of which the novel score is the higher, ties counting half: [k] of scores [N, k] and [M, k]."""
    ordered, asked = usual.T.contiguous().sort(dim=1).values, novel.T.contiguous()
    below_or_at = torch.searchsorted(ordered, asked, right=True) + torch.searchsorted(ordered, asked)
    return below_or_at.double().mean(dim=1) / (2 * len(usual))


def _least_regret(pairs: Sequence[tuple[Tensor, Tensor]], candidates: Sequence[tuple[float, ...]]) -> Tensor:
    """Weights [families], float64, one of the candidates; pairs are [N, families] and [M, families] of a kind."""
    weights = torch.tensor(candidates, dtype=torch.float64)
    regrets = []
    for usual, novel in pairs:
        combined = auroc(_soft_maximum(usual, weights), _soft_maximum(novel, weights))
        regrets.append((auroc(usual, novel).amax() - combined).clamp(min=0))
    regret = torch.stack(regrets)
    price = PRICE * weights[:, len(MAIN_FAMILIES) :].sum(dim=1)
    return weights[(regret.amax(dim=0) + regret.mean(dim=0) + price).argmin()].clone()


def _soft_maximum(families: Tensor, weights: Tensor) -> Tensor:
    """[N, candidates] of scores [N, families] and weights [candidates, families]; weight 0 leaves a family out."""
    present = torch.zeros_like(weights).masked_fill(weights == 0, -torch.inf)
    return (SHARPNESS * families[:, None, :] * weights + present).logsumexp(dim=2)
