"""How well novelty tells real and made damage, beside linear floors and a patch memory as anomalib's PatchCore has it.

    python benchmarks/novelty.py ../shared/data/damage_cans:no_defect ../shared/data/damage_solar:No-Anomaly \\
        ../shared/data/doc_labels ../shared/data/product_clothing

Each pack is a folder with `train/` and `validation/`, and after a colon its class of good photos; without one all
photos are good, and made damage alone is judged. After a second colon a regular expression may follow, whose first
group names the series that a photo belongs to: `doc_labels::([^/_]+)_`. Photos of one series, and near-duplicates, stay
together in folds and divisions and weigh as one photo.

Everything is fitted on the good photos of `train/`. Tables in Markdown, one row a pack: AUROC on real damage of
`validation/`, the same on made damage, the kinds of made damage one by one, and false alarms.

Made damage: for each kind in turn, a combination that has not seen this kind judges copies of the good validation
photos. The strength of each kind is fixed once, before any score is looked at, so that the better of two linear floors
has an AUROC of .7 on held-out photos of `train/`.

The anchor: EfficientNet-Lite0 at 224 x 224, blocks 4 and 10 averaged over 3 x 3 places, the coarser enlarged, stacked,
not standardised; 60,000 places drawn evenly from the good photos; a greedy k-centre of 6,000 of them by a random
projection to 64 numbers; the distance of a place to the nearest; of these the largest, the mean of the largest 2 %,
and the mean. anomalib's PatchCore itself takes a WideResNet-50, and its EfficientAD a teacher distilled on ImageNet:
weights that are not in a package and have to be downloaded.

`--seeds` are divisions into folds. `--divisions N` divides all good photos N times at random, two thirds of the groups
to fit on and a third to judge, and shows the mean rate of false alarms: of photos, and of photos that weigh one a group
together, which is what is promised.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_ldm.data.decoding import decode_whole
from vae_ldm.data.made_damage import KINDS, DamageKind, MadeDamage
from vae_ldm.data.near_duplicates import difference_hash, duplicate_thumbnail
from vae_ldm.data.photo_groups import photo_groups
from vae_ldm.data.photo_records import photo_records
from vae_ldm.desk.novelty.backbone_features import (
    THUMBNAIL_SIDE,
    damaged_shares,
    features_from_stages,
    middle_stages,
    squares,
)
from vae_ldm.desk.novelty.made_photos import draw_sources, fit_strengths, make_copies
from vae_ldm.evaluation.interval import share_interval
from vae_ldm.latent_space.novelty_scores.combination import FamilyCombination, auroc
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector, inner_scores, outer_folds
from vae_ldm.latent_space.novelty_scores.families import FAMILIES
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures
from vae_ldm.latent_space.novelty_scores.pixel_floor import PixelFloor
from vae_ldm.latent_space.patch_memory import farthest_first, local_patches
from vae_ldm.models.vision_features import VisionFeatures, load_efficientnet_lite

RATES = (0.01, 0.05, 0.1)
NUM_RESAMPLES = 500
MADE_A_KIND = 75
"""Of these the detector learns; a desk would make as many."""
LONGEST_SIDE = 512
ANCHOR_POOL, ANCHOR_SIZE = 60_000, 6_000
FLOORS = ("PCA error", "5-NN in PCA")
ANCHORS = ("anchor, largest", "anchor, worst 2 %", "anchor, mean")
SINGLE = (*FLOORS, *ANCHORS, *FAMILIES)


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos with all that the scores, the floors and the anchor look at."""

    features: PhotoFeatures
    floors: Tensor
    """[N, 2]"""
    anchors: Tensor
    """[N, 3]"""


class Anchor:
    """The memory of places, filled from the photos that it is shown."""

    def __init__(self, num_photos: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.a_photo = math.ceil(ANCHOR_POOL / num_photos)
        self.pool: list[Tensor] = []
        self.memory = torch.empty(0)

    def remember(self, patches: Tensor) -> None:
        for places in patches:
            self.pool.append(places[torch.randperm(len(places), generator=self.generator)[: self.a_photo]])

    def close(self) -> None:
        pool = torch.cat(self.pool)
        pool = pool[torch.randperm(len(pool), generator=self.generator)[:ANCHOR_POOL]]
        self.memory, self.pool = pool[farthest_first(pool, ANCHOR_SIZE)].clone(), []

    def __call__(self, patches: Tensor) -> Tensor:
        found = []
        for places in patches:
            squared = torch.addmm(self.memory.square().sum(dim=1), places, self.memory.T, alpha=-2).amin(dim=1)
            distances = (squared + places.square().sum(dim=1)).clamp(min=0).sqrt()
            strangest = distances.topk(max(1, round(len(distances) * 0.02))).values
            found.append(torch.stack([distances.max(), strangest.mean(), distances.mean()]))
        return torch.stack(found)


@torch.no_grad()
def looked_at(backbone: VisionFeatures, pictures: Sequence[np.ndarray]) -> Iterator[tuple[PhotoFeatures, Tensor]]:
    """Features, and the places of the anchor [B, 784, C], of some photos after the others."""
    for start in range(0, len(pictures), 32):
        images = squares(pictures[start : start + 32])
        stages = backbone.stages(images)
        # In half precision, as a detector stores them.
        yield (
            features_from_stages(images, stages).half(),
            local_patches(middle_stages(stages)).flatten(2).transpose(1, 2),
        )


def judged_photos(
    backbone: VisionFeatures, pictures: Sequence[np.ndarray], floor: PixelFloor, anchor: Anchor
) -> Photos:
    features, anchors = zip(*((seen, anchor(places)) for seen, places in looked_at(backbone, pictures)), strict=True)
    floors = floor(squares(pictures, THUMBNAIL_SIDE).flatten(1))
    return Photos(PhotoFeatures.cat(features), floors, torch.cat(anchors))


def made_copies(
    backbone: VisionFeatures,
    sources: Sequence[tuple[int, int]],
    make: Callable[[DamageKind], list[MadeDamage]],
) -> MadeCopies:
    parts, masks = [], []
    for kind in KINDS:
        copies = make(kind)
        parts += [seen for seen, _ in looked_at(backbone, [each.image for each in copies])]
        masks.append(damaged_shares([each.mask for each in copies]))
    kinds = torch.arange(len(KINDS)).repeat_interleave(len(sources))
    return MadeCopies(PhotoFeatures.cat(parts), kinds, torch.tensor(sources).repeat(len(KINDS), 1), torch.cat(masks))


def read(folder: Path, label: str | None) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Good photos by name, and all others; without a label all are good."""
    good: dict[str, np.ndarray] = {}
    others: list[np.ndarray] = []
    for record in photo_records(folder):
        picture = shrunk(decode_whole(record.picture))
        if label is None or record.label == label:
            good[record.id] = picture
        else:
            others.append(picture)
    return good, others


def groups_of(photos: Sequence[tuple[str, np.ndarray]], series: str | None) -> Tensor:
    """Which photos stay together: int64 [N]."""
    return torch.from_numpy(
        photo_groups(
            [name for name, _ in photos],
            hashes=np.array([difference_hash(picture) for _, picture in photos]),
            thumbnails=np.stack([duplicate_thumbnail(picture) for _, picture in photos]),
            pattern=series,
        )
    )


def shrunk(picture: np.ndarray) -> np.ndarray:
    """Means of n x n pixels, n as small as brings the longer side to LONGEST_SIDE."""
    step = math.ceil(max(picture.shape[:2]) / LONGEST_SIDE)
    height, width = (side // step * step for side in picture.shape[:2])
    cells = picture[:height, :width].reshape(height // step, step, width // step, step, -1)
    return cells.mean(axis=(1, 3)).round().astype(np.uint8)


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


def single_scores(photos: Photos, families: Tensor) -> Tensor:
    return torch.cat([photos.floors.double(), photos.anchors.double(), families], dim=1)


class Results:
    """Rows of the tables, printed once all packs are done."""

    def __init__(self) -> None:
        columns = ["pack", *SINGLE, "combination, each seed", "of the first seed", "regret", "over the anchor's best"]
        self.real, self.made = [columns], [columns]
        self.kinds = [["pack", "score", *KINDS]]
        self.rates = [["pack", *(f"{rate:.0%} asked" for rate in RATES), *(f"found at {rate:.0%}" for rate in RATES)]]

    def add(
        self, table: list[list[str]], pack: str, single: Sequence[float], ours: Sequence[float], within: str
    ) -> None:
        mean = sum(ours) / len(ours)
        families, anchors = single[-len(FAMILIES) :], single[len(FLOORS) :][: len(ANCHORS)]
        each = ", ".join(f"{value:.3f}" for value in ours)
        gaps = [f"{max(families) - mean:+.3f}", f"{mean - max(anchors):+.3f}"]
        table.append([pack, *(f"{value:.3f}" for value in single), each, within, *gaps])

    def print(self) -> None:
        titles = ("Real damage, AUROC", "Made damage, each kind left out, mean AUROC", "Made damage by kind, AUROC")
        for title, table in zip((*titles, "Alarms"), (self.real, self.made, self.kinds, self.rates), strict=True):
            if len(table) > 1:
                print(f"\n{title}\n")
                print(f"| {' | '.join(table[0])} |\n{'|---' * len(table[0])}|")
                print("\n".join(f"| {' | '.join(row)} |" for row in table[1:]))


def judge_pack(pack: str, backbone: VisionFeatures, results: Results, options: argparse.Namespace) -> None:
    path, label, series = [*pack.split(":", 2), "", ""][:3]
    folder, name = Path(path), Path(path).name
    named, _ = read(folder / "train", label or None)
    pictures = list(named.values())
    anchor = Anchor(len(pictures))
    parts = []
    for seen, places in looked_at(backbone, pictures):
        anchor.remember(places)
        parts.append(seen)
    anchor.close()
    good = PhotoFeatures.cat(parts)
    floor = PixelFloor.fit(squares(pictures, THUMBNAIL_SIDE).flatten(1))
    usual_named, novel_pictures = read(folder / "validation", label or None)
    usual_pictures = list(usual_named.values())
    groups_of_all = groups_of([*named.items(), *usual_named.items()], series or None)
    groups = groups_of_all[: len(good)]

    quick = fit_strengths(pictures)
    sources = draw_sources(outer_folds(groups), MADE_A_KIND, seed=1)
    made = made_copies(
        backbone,
        sources,
        lambda kind: make_copies(pictures, sources, kind, quick, seed=7),
    )
    strengths = fit_strengths(pictures, small=False)

    usual = judged_photos(backbone, usual_pictures, floor, anchor)
    novel = judged_photos(backbone, novel_pictures, floor, anchor) if novel_pictures else None
    of_one_fold = torch.zeros(len(usual_pictures), dtype=torch.int64)
    asked = draw_sources(of_one_fold, options.made_a_kind, seed=1)
    damaged = [
        judged_photos(
            backbone,
            [each.image for each in make_copies(usual_pictures, asked, kind, strengths, seed=8)],
            floor,
            anchor,
        )
        for kind in KINDS
    ]

    real_ours: list[float] = []
    real_single: list[Tensor] = []
    made_ours, made_single = [], []
    within = ""
    for seed in range(options.seeds):
        detector = CrossFittedDetector.fit(good, made, groups, num_kinds=len(KINDS), seed=seed)
        judged = detector(usual.features)
        if novel is not None:
            found = detector(novel.features)
            real_ours.append(one(judged.scores, found.scores))
            of_usual, of_novel = single_scores(usual, judged.families), single_scores(novel, found.families)
            real_single.append(auroc(of_usual, of_novel))
            within = within or interval(judged.scores, found.scores)
        if seed == 0:
            rates = [share(judged.p_values <= rate + 1e-12) for rate in RATES]
            hits = [share(found.p_values <= rate + 1e-12) if novel is not None else "" for rate in RATES]
            results.rates.append([name, *rates, *hits])
        single, ours = left_out(detector, good, made, groups, usual, damaged, seed)
        made_single.append(single)
        made_ours.append(ours)

    if real_ours:
        results.add(results.real, name, torch.stack(real_single).mean(dim=0).tolist(), real_ours, within)
    by_kind = torch.stack(made_single).mean(dim=0)  # [kinds, single scores]
    ours_by_kind = torch.stack(made_ours)  # [seeds, kinds]
    results.add(results.made, name, by_kind.mean(dim=0).tolist(), ours_by_kind.mean(dim=1).tolist(), "")
    rows = [*zip(SINGLE, by_kind.T.tolist(), strict=True), ("combination", ours_by_kind.mean(dim=0).tolist())]
    results.kinds.append([name, "strength", *(f"{strengths[kind].strength:.2f}" for kind in KINDS)])
    results.kinds.append([name, "floor when fixed", *(f"{strengths[kind].floor:.2f}" for kind in KINDS)])
    results.kinds += [[name, score, *(f"{value:.2f}" for value in values)] for score, values in rows]
    if options.divisions:
        photos = PhotoFeatures.cat([good, usual.features])
        results.rates.append(
            [
                f"{name}, {options.divisions} divisions",
                *divided(photos, made, groups_of_all, options.divisions),
                *[""] * 3,
            ]
        )


def left_out(
    detector: CrossFittedDetector,
    good: PhotoFeatures,
    made: MadeCopies,
    groups: Tensor,
    usual: Photos,
    damaged: Sequence[Photos],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """AUROC of single scores [kinds, scores] and of the combination [kinds], neither of which has seen the kind."""
    inner = [
        inner_scores(good, made, groups, detector.folds != fold, len(KINDS), seed)
        for fold in range(len(detector.models))
    ]
    of_usual = [model.scores(usual.features) for model in detector.models]
    single, ours = [], []
    for left, photos in enumerate(damaged):
        kinds = torch.arange(len(KINDS)) != left
        scores, families = [], []
        for model, learned, raw in zip(detector.models, inner, of_usual, strict=True):
            combination = FamilyCombination.fit(learned.good, learned.made, learned.kinds, kinds)
            pair = raw, model.scores(photos.features)
            scores.append([combination(each) for each in pair])
            families.append([combination.families(each) for each in pair])
        mean = lambda parts: [torch.stack(side).mean(dim=0) for side in zip(*parts, strict=True)]  # noqa: E731
        ours.append(one(*mean(scores)))
        low, high = mean(families)
        single.append(auroc(single_scores(usual, low), single_scores(photos, high)))
    return torch.stack(single), torch.tensor(ours)


def divided(photos: PhotoFeatures, made: MadeCopies, groups: Tensor, count: int) -> list[str]:
    """Mean rate of false alarms at each of RATES over random divisions of good photos, and its standard deviation.

    The groups [N] of the photos are divided, so that no photo is judged by others of its group. The second mean is of
    rates in which each group weighs as one photo.
    """
    names = groups.unique()
    found = []
    for seed in range(count):
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
        to_fit = torch.isin(groups, names[order[: 2 * len(order) // 3]])
        known, asked = to_fit.nonzero().flatten(), (~to_fit).nonzero().flatten()
        new_rows = torch.full((len(photos),), -1)
        new_rows[known] = torch.arange(len(known))
        sources = new_rows[made.sources]
        kept = (sources >= 0).all(dim=1).nonzero().flatten()
        copies = MadeCopies(made.features[kept], made.kinds[kept], sources[kept], made.masks[kept])
        detector = CrossFittedDetector.fit(photos[known], copies, groups[known], num_kinds=len(KINDS), seed=seed)
        p_values = detector(photos[asked]).p_values
        _, members, sizes = groups[asked].unique(return_inverse=True, return_counts=True)
        a_group = 1 / sizes[members].double() / len(sizes)
        alarms = torch.stack([p_values <= rate + 1e-12 for rate in RATES]).double()
        found.append(torch.stack([alarms.mean(dim=1), alarms @ a_group]))
    rates = torch.stack(found)  # [divisions, 2, rates]
    (means, by_group), (deviations, _) = rates.mean(dim=0).tolist(), rates.std(dim=0).tolist()
    return [
        f"{mean:.1%} (each division ± {deviation:.1%}), groups as one {weighed:.1%}"
        for mean, deviation, weighed in zip(means, deviations, by_group, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", metavar="FOLDER[:GOOD_CLASS[:SERIES]]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--made-a-kind", type=int, default=60)
    parser.add_argument("--divisions", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)

    backbone = load_efficientnet_lite().folded()
    results = Results()
    for pack in options.packs:
        judge_pack(pack, backbone, results, options)
    results.print()


if __name__ == "__main__":
    main()
