"""Which class of known damage a photo shows, and whether it shows none of them, with each class left out in turn.

    python benchmarks/known_damage.py rendered-claims ../shared/data/damage_cans:no_defect \\
        ../shared/data/damage_solar:No-Anomaly

Each pack is a folder with `train/` and `validation/`, and after a colon its class of good photos; the other classes are
known damage. `rendered-claims` are laptop bezels, parcels and tins drawn by code, 64 px: cracked, scratched or dented,
nine classes. Fitted on the damaged photos of `train/`, judged on those of `validation/`. Tables in Markdown.

Of all classes: how often the set holds the right one (coverage), how many classes it holds, how often it holds the
right one alone, how often the most like class is the right one, and how often the set is empty.

Of each class: coverage, and what becomes of its photos where it is left out of the known classes: how often their set
is empty, beside the same share of the photos of the classes that are still known, and the AUROC of the p-value that
calls a photo like any known one. The last columns are of novelty, which has learned from at most `--good` good photos:
the median p-value of the class's photos, and how many are novel at 5 %.

In brackets 95 % intervals, by Wilson of shares and by bootstrap of the size. Times are CPU time of one thread.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from novelty_photos import looked_at, made_copies
from novelty_tables import one, share
from torch import Tensor

from vae_ldm.data.made_damage import KINDS
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.photo_stream import decode_within
from vae_ldm.data.rendered_claims import CLASS_NAMES, render_claim
from vae_ldm.desk.novelty.made_photos import draw_sources, fit_strengths, make_copies
from vae_ldm.desk.novelty.observer import LONGEST_SIDE
from vae_ldm.evaluation.interval import bootstrap_interval
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector, outer_folds
from vae_ldm.latent_space.novelty_scores.known_classes import ClassJudgement, KnownClasses
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures
from vae_ldm.models.vision_features import VisionFeatures, load_efficientnet_lite

RENDERED = "rendered-claims"
NUM_RENDERED = {"train": 100, "validation": 40}
NOVELTY_RATE = 0.05
NUM_TIMED = 20
OF_ALL = (
    "pack",
    "classes",
    "photos fitted on, judged",
    "coverage",
    "classes in a set",
    "the right one alone",
    "most like is right",
    "empty",
    "fit, CPU s",
    "a verdict, CPU ms",
)
OF_EACH = (
    "pack",
    "class",
    "photos fitted on, judged",
    "coverage",
    "empty where left out",
    "empty of those still known",
    "AUROC",
    "median p of novelty",
    f"novel at {NOVELTY_RATE:.0%}",
)


@dataclass(frozen=True, eq=False)
class Pack:
    """Pictures, uint8 [H, W, C] each, and the classes of the damaged ones."""

    name: str
    good: Sequence[np.ndarray]
    known: Sequence[np.ndarray]
    known_names: Sequence[str]
    asked: Sequence[np.ndarray]
    asked_names: Sequence[str]


def read_pack(pack: str, num_good: int) -> Pack:
    folder, _, good_name = pack.partition(":")
    parts = {split: rendered(split) if pack == RENDERED else photos(Path(folder) / split) for split in NUM_RENDERED}
    good_name = "good" if pack == RENDERED else good_name
    good = [picture for picture, name in parts["train"] if name == good_name]
    chosen = torch.randperm(len(good), generator=torch.Generator().manual_seed(0))[:num_good].sort().values
    known, asked = ([each for each in part if each[1] != good_name] for part in parts.values())
    return Pack(
        Path(folder).name,
        [good[row] for row in chosen],
        [picture for picture, _ in known],
        [name for _, name in known],
        [picture for picture, _ in asked],
        [name for _, name in asked],
    )


def photos(folder: Path) -> list[tuple[np.ndarray, str]]:
    return [(decode_within(record.picture, LONGEST_SIDE), str(record.label)) for record in photo_records(folder)]


def rendered(split: str) -> list[tuple[np.ndarray, str]]:
    first = 0 if split == "train" else 1_000_000
    made = []
    for label, name in enumerate(CLASS_NAMES[:-1]):  # the last is a label, which is never damaged
        seeds = range(first + 1000 * label, first + 1000 * label + NUM_RENDERED[split])
        pictures = [np.asarray(render_claim(seed, label=label).image) for seed in seeds]
        made += [(picture, "good" if name.startswith("good ") else name) for picture in pictures]
    return made


def features_of(backbone: VisionFeatures, pictures: Sequence[np.ndarray]) -> PhotoFeatures:
    return PhotoFeatures.cat([seen for seen, _ in looked_at(backbone, pictures)])


def novelty_p_values(backbone: VisionFeatures, pack: Pack, asked: PhotoFeatures, made_a_kind: int) -> Tensor:
    good = features_of(backbone, pack.good)
    groups = torch.arange(len(good))
    sources = draw_sources(outer_folds(groups), made_a_kind, seed=1)
    strengths = fit_strengths(pack.good)
    made = made_copies(backbone, sources, lambda kind: make_copies(pack.good, sources, kind, strengths, seed=7))
    return CrossFittedDetector.fit(good, made, groups, num_kinds=len(KINDS))(asked).p_values


def judged_without(
    known: PhotoFeatures, labels: Tensor, asked: PhotoFeatures, num_classes: int, left: int
) -> ClassJudgement:
    """What is said of `asked` where one class is not known."""
    rows = (labels != left).nonzero().flatten()
    others = labels[rows] - (labels[rows] > left).long()
    return KnownClasses.fit(known[rows], others, torch.arange(len(rows)), num_classes - 1)(asked)


def holds(judgement: ClassJudgement, labels: Tensor, level: float) -> Tensor:
    return judgement.sets(level)[torch.arange(len(labels)), labels]


def judge_pack(
    backbone: VisionFeatures, pack: Pack, options: argparse.Namespace, tables: list[list[list[str]]]
) -> None:
    names = sorted(set(pack.known_names))
    labels = torch.tensor([names.index(name) for name in pack.known_names])
    truth = torch.tensor([names.index(name) for name in pack.asked_names])
    known, asked = features_of(backbone, pack.known), features_of(backbone, pack.asked)
    novelty = novelty_p_values(backbone, pack, asked, options.made_a_kind)

    start = time.process_time()
    classes = KnownClasses.fit(known, labels, torch.arange(len(labels)), len(names))
    fitted = time.process_time()
    alone = [asked[row : row + 1] for row in range(min(NUM_TIMED, len(asked)))]
    for photo in alone:
        classes(photo)
    verdict = (time.process_time() - fitted) / len(alone)
    judgement = classes(asked)
    sizes = judgement.sets(options.level).sum(dim=1).double()
    within = holds(judgement, truth, options.level)
    spread = bootstrap_interval(sizes)
    assert spread is not None
    tables[0].append(
        [
            pack.name,
            str(len(names)),
            f"{len(labels)}, {len(truth)}",
            share(within),
            f"{sizes.mean().item():.2f} [{spread.low:.2f}, {spread.high:.2f}]",
            share(within & (sizes == 1)),
            share(judgement.most_like == truth),
            share(judgement.none_of_them(options.level)),
            f"{fitted - start:.1f}",
            f"{1000 * verdict:.0f}",
        ]
    )
    for left, name in enumerate(names):
        without = judged_without(known, labels, asked, len(names), left)
        none, new = without.none_of_them(options.level), truth == left
        tables[1].append(
            [
                pack.name,
                name,
                f"{int((labels == left).sum())}, {int(new.sum())}",
                share(within[new]),
                share(none[new]),
                share(none[~new]),
                f"{one(-without.known_p_values[~new], -without.known_p_values[new]):.3f}",
                f"{novelty[new].median().item():.3f}",
                share(novelty[new] <= NOVELTY_RATE + 1e-12),
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", metavar="FOLDER:GOOD_CLASS")
    parser.add_argument("--level", type=float, default=0.1)
    parser.add_argument("--good", type=int, default=400)
    parser.add_argument("--made-a-kind", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)

    backbone = load_efficientnet_lite().folded()
    tables = [[list(OF_ALL)], [list(OF_EACH)]]
    for pack in options.packs:
        judge_pack(backbone, read_pack(pack, options.good), options, tables)
    for title, table in zip((f"Known classes, sets at {1 - options.level:.0%}", "Each class"), tables, strict=True):
        print(f"\n{title}\n\n| {' | '.join(table[0])} |\n{'|---' * len(table[0])}|")
        print("\n".join(f"| {' | '.join(row)} |" for row in table[1:]))


if __name__ == "__main__":
    main()
