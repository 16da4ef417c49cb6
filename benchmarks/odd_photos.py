"""Whether damaged photos among the good ones are found, and what it gives to leave them out.

    python benchmarks/odd_photos.py rendered-claims ../shared/data/damage_cans:no_defect

Each draw hides three damaged photos of `train/` among the good ones, fits a detector on all of them, and ranks them by
`held_out_p_values`, the highest held-out score first where p-values are equal. Found is how many of the three are among
the first six. Then, for the first `--refits` draws, the detector is fitted again without those found, as somebody would
who looks at the first six, and without all three. AUROC is that of damaged and good photos of `validation/`, and a gain
is by how much it is higher than with the three left in.

`rendered-claims` are tins drawn by code, 64 px: good ones among which cracked, scratched and dented ones are hidden. A
pack is a folder with `train/` and `validation/`, and after a colon its class of good photos; all others are damaged.

In brackets 95 % intervals by bootstrap over the draws. All draws have the same good photos and the same `validation/`:
the intervals say what other hidden photos would give.

A fit takes about half a minute of CPU time, a draw with its refits three of them; each draw is told as it is done.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from novelty_photos import looked_at, made_copies, read
from novelty_tables import one
from torch import Tensor

from vae_ldm.data.made_damage import KINDS
from vae_ldm.data.rendered_claims import CLASS_NAMES, render_claim
from vae_ldm.desk.backbone import open_backbone
from vae_ldm.desk.novelty.made_photos import draw_sources, fit_strengths, make_copies
from vae_ldm.evaluation.interval import bootstrap_interval
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector, outer_folds
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures
from vae_ldm.models.vision_features import VisionFeatures

RENDERED = "rendered-claims"
NUM_HIDDEN = 3
NUM_LOOKED_AT = 6
MADE_A_KIND = 75
NUM_RENDERED = {"good": 150, "hidden": 60, "validation": 120}
COLUMNS = (
    "pack",
    "good photos",
    "found among the first six",
    "draws by number found, 0 to 3",
    "AUROC, left in",
    "those found left out",
    "gain",
    "all three left out",
    "gain",
)


@dataclass(frozen=True, eq=False)
class Pack:
    """Pictures, uint8 [H, W, C] each."""

    name: str
    good: Sequence[np.ndarray]
    damaged: Sequence[np.ndarray]
    usual: Sequence[np.ndarray]
    """Good ones of `validation/`."""
    novel: Sequence[np.ndarray]
    """Damaged ones of `validation/`."""


@dataclass(frozen=True)
class Draw:
    """What came of one draw."""

    found: int
    """How many of the hidden photos are among the first six."""
    aurocs: tuple[float, float, float] | None
    """With all left in, with those found left out, with all three left out; None where nothing was fitted again."""


def rendered_tins() -> Pack:
    labels = {name.split()[0]: label for label, name in enumerate(CLASS_NAMES) if name.endswith(" tin")}
    damages = [condition for condition in labels if condition != "good"]

    def tins(conditions: Sequence[str], count: int, first_seed: int) -> list[np.ndarray]:
        seeds = range(first_seed, first_seed + count)
        claims = [
            render_claim(seed, label=labels[conditions[index % len(conditions)]]) for index, seed in enumerate(seeds)
        ]
        return [np.asarray(claim.image) for claim in claims]

    return Pack(
        RENDERED,
        tins(["good"], NUM_RENDERED["good"], 0),
        tins(damages, NUM_RENDERED["hidden"], 1_000),
        tins(["good"], NUM_RENDERED["validation"], 2_000),
        tins(damages, NUM_RENDERED["validation"], 3_000),
    )


def pack_of(name: str) -> Pack:
    if name == RENDERED:
        return rendered_tins()
    folder, _, label = name.partition(":")
    good, damaged = read(Path(folder) / "train", label)
    usual, novel = read(Path(folder) / "validation", label)
    return Pack(Path(folder).name, list(good.values()), damaged, list(usual.values()), novel)


class Hider:
    """Fits detectors on the good photos of a pack with damaged ones among them."""

    def __init__(self, pack: Pack, backbone: VisionFeatures) -> None:
        self.pack, self.backbone = pack, backbone
        self.good, self.damaged, self.usual, self.novel = (
            self._seen(some) for some in (pack.good, pack.damaged, pack.usual, pack.novel)
        )
        self.groups = torch.arange(len(pack.good) + NUM_HIDDEN)
        self.strengths = fit_strengths(pack.good)
        self.sources = draw_sources(outer_folds(self.groups), MADE_A_KIND, seed=1)
        touched = [max(pair) >= len(pack.good) for pair in self.sources]
        self.anew = torch.tensor(touched).repeat(len(KINDS))
        # Copies that show none of the hidden photos are the same in all draws.
        self.copies = self._copies([*pack.good, *pack.damaged[:NUM_HIDDEN]], self.sources)

    def _seen(self, pictures: Sequence[np.ndarray]) -> PhotoFeatures:
        return PhotoFeatures.cat([seen for seen, _ in looked_at(self.backbone, pictures)])

    def _copies(self, pictures: Sequence[np.ndarray], sources: Sequence[tuple[int, int]]) -> MadeCopies:
        return made_copies(
            self.backbone, sources, lambda kind: make_copies(pictures, sources, kind, self.strengths, seed=7)
        )

    def _copies_with(self, hidden: Sequence[int]) -> MadeCopies:
        pictures = [*self.pack.good, *(self.pack.damaged[row] for row in hidden)]
        sources = [pair for pair in self.sources if max(pair) >= len(self.pack.good)]
        if not sources:
            return self.copies
        kept, anew = self.copies[(~self.anew).nonzero().flatten()], self._copies(pictures, sources)
        return MadeCopies.cat([kept, anew])

    def __call__(self, seed: int, *, refit: bool) -> Draw:
        hidden = np.random.default_rng(seed).permutation(len(self.damaged))[:NUM_HIDDEN]
        photos = PhotoFeatures.cat([self.good, self.damaged[torch.from_numpy(hidden)]])
        copies = self._copies_with(hidden.tolist())
        is_hidden = self.groups >= len(self.good)

        def fitted(left_out: Tensor | None) -> CrossFittedDetector:
            return CrossFittedDetector.fit(photos, copies, self.groups, num_kinds=len(KINDS), left_out=left_out, seed=0)

        def told(detector: CrossFittedDetector) -> float:
            return one(detector(self.usual).scores, detector(self.novel).scores)

        detector = fitted(None)
        first = ranked(detector)[:NUM_LOOKED_AT]
        found = torch.zeros_like(is_hidden)
        found[first] = True
        found &= is_hidden
        num_found = int(found.sum())
        if not refit:
            return Draw(num_found, None)
        before, without_all = told(detector), told(fitted(is_hidden))
        without_found = {0: before, NUM_HIDDEN: without_all}.get(num_found)
        if without_found is None:
            without_found = told(fitted(found))
        return Draw(num_found, (before, without_found, without_all))


def ranked(detector: CrossFittedDetector) -> Tensor:
    """Rows [N] of the reference photos, the strangest first."""
    by_score = detector.held_out.argsort(descending=True, stable=True)
    return by_score[detector.held_out_p_values()[by_score].argsort(stable=True)]


def mean_of(values: Sequence[float], signed: bool = False) -> str:
    numbers = torch.tensor(values, dtype=torch.float64)
    sign = "+" if signed else ""
    within = bootstrap_interval(numbers)
    text = f"{numbers.mean().item():{sign}.3f}"
    return text if within is None else f"{text} [{within.low:{sign}.3f}, {within.high:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", metavar=f"{RENDERED}|FOLDER:GOOD_CLASS")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--refits", type=int, default=20, help="of so many draws AUROC is measured, three fits each")
    options = parser.parse_args()
    torch.set_num_threads(1)

    backbone = open_backbone(None).features
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for name in options.packs:
        pack = pack_of(name)
        hider = Hider(pack, backbone)
        draws = []
        for seed in range(options.draws):
            draws.append(hider(seed, refit=seed < options.refits))
            print(f"{pack.name}, draw {seed}: {draws[-1]}", file=sys.stderr, flush=True)
        counts = [sum(draw.found == number for draw in draws) for number in range(NUM_HIDDEN + 1)]
        cells = [
            pack.name,
            str(len(pack.good)),
            mean_of([draw.found / NUM_HIDDEN for draw in draws]),
            ", ".join(map(str, counts)),
        ]
        measured = [draw.aurocs for draw in draws if draw.aurocs is not None]
        if measured:
            left_in, *afterwards = zip(*measured, strict=True)
            cells.append(mean_of(left_in))
            for after in afterwards:
                gains = [new - old for new, old in zip(after, left_in, strict=True)]
                cells += [mean_of(after), mean_of(gains, signed=True)]
        cells += [""] * (len(COLUMNS) - len(cells))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
