"""The tables of `novelty.py`, and the numbers in their cells."""

from collections.abc import Sequence

import torch
from novelty_anchor import ANCHORS
from novelty_where import LOCAL_KINDS, MAPS
from torch import Tensor

from vae_ldm.data.made_damage import KINDS
from vae_ldm.evaluation.interval import share_interval
from vae_ldm.latent_space.novelty_scores.combination import auroc
from vae_ldm.latent_space.novelty_scores.families import FAMILIES

RATES = (0.01, 0.05, 0.1)
NUM_RESAMPLES = 500
FLOORS = ("PCA error", "5-NN in PCA")
SINGLE = (*FLOORS, *ANCHORS, *FAMILIES)


def one(usual: Tensor, novel: Tensor) -> float:
    return auroc(usual[:, None].double(), novel[:, None].double()).item()


def interval(usual: Tensor, novel: Tensor) -> str:
    generator = torch.Generator().manual_seed(0)
    draw = lambda some: some[torch.randint(len(some), (len(some),), generator=generator)]  # noqa: E731
    drawn = torch.tensor([one(draw(usual), draw(novel)) for _ in range(NUM_RESAMPLES)])
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"[{low:.2f}, {high:.2f}]"


def share(alarms: Tensor) -> str:
    hits = int(alarms.sum())
    low, high = share_interval(hits, len(alarms))
    return f"{hits / len(alarms):.1%} [{low:.1%}, {high:.1%}]"


class Results:
    """Rows of the tables, printed once all packs are done."""

    def __init__(self) -> None:
        columns = ["pack", *SINGLE, "combination, each seed", "of the first seed", "regret", "over the anchor's best"]
        self.real, self.made = [columns], [columns]
        self.kinds = [["pack", "score", *KINDS]]
        self.rates = [["pack", *(f"{rate:.0%} asked" for rate in RATES), *(f"found at {rate:.0%}" for rate in RATES)]]
        self.where = [["pack", "places", "measure", *MAPS]]
        self.times = [["pack", "photos", "to look at one, ms", "fit, s"]]

    def add(
        self, table: list[list[str]], pack: str, single: Sequence[float], ours: Sequence[float], within: str
    ) -> None:
        mean = sum(ours) / len(ours)
        families, anchors = single[-len(FAMILIES) :], single[len(FLOORS) :][: len(ANCHORS)]
        each = ", ".join(f"{value:.3f}" for value in ours)
        gaps = [f"{max(families) - mean:+.3f}", f"{mean - max(anchors):+.3f}"]
        table.append([pack, *(f"{value:.3f}" for value in single), each, within, *gaps])

    def print(self) -> None:
        tables = {
            "Real damage, AUROC": self.real,
            "Made damage, each kind left out, mean AUROC": self.made,
            "Made damage by kind, AUROC": self.kinds,
            "Alarms": self.rates,
            f"Where: the {len(LOCAL_KINDS)} local kinds of made damage, each left out": self.where,
            "CPU time": self.times,
        }
        for title, table in tables.items():
            if len(table) > 1:
                print(f"\n{title}\n")
                print(f"| {' | '.join(table[0])} |\n{'|---' * len(table[0])}|")
                print("\n".join(f"| {' | '.join(row)} |" for row in table[1:]))
