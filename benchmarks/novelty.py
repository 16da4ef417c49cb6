"""How well novelty tells real and made damage, beside linear floors and a patch memory as anomalib's PatchCore has it.

    python benchmarks/novelty.py ../shared/data/damage_cans:no_defect ../shared/data/damage_solar:No-Anomaly \\
        ../shared/data/doc_labels ../shared/data/product_clothing

Each pack is a folder with `train/` and `validation/`, and after a colon its class of good photos; without one all
photos are good, and made damage alone is judged. After a second colon a regular expression may follow, whose first
group names the series that a photo belongs to: `doc_labels::([^/_]+)_`. Photos of one series, and near-duplicates, stay
together in folds and divisions and weigh as one photo.

Everything is fitted on the good photos of `train/`. Tables in Markdown, one row a pack: AUROC on real damage of
`validation/`, the same on made damage, the kinds of made damage one by one, false alarms, how well heat maps show where
made damage is, and the CPU time.

Made damage: for each kind in turn, a combination that has not seen this kind judges copies of the good validation
photos. The strength of each kind is fixed once, before any score is looked at, so that the better of two linear floors
has an AUROC of .7 on held-out photos of `train/`.

The anchor: EfficientNet-Lite0 at 224 x 224, blocks 4 and 10 averaged over 3 x 3 places, the coarser enlarged, stacked,
not standardised; 60,000 places drawn evenly from the good photos; a greedy k-centre of 6,000 of them by a random
projection to 64 numbers; the distance of a place to the nearest; of these the largest, the mean of the largest 2 %,
and the mean.

anomalib's PatchCore and EfficientAD themselves are not here: they download what no Python package holds (checked in
anomalib 2.0). PatchCore takes the ImageNet weights of a WideResNet-50-2, which timm fetches from the Hub (69 million
parameters, where EfficientNet-Lite0 has 5). EfficientAD takes its distilled teacher from a release on GitHub, and for a
penalty in each training step the photos of Imagenette; it trains a student and an autoencoder in batches of one photo,
for 70,000 steps in its paper.

`--backbone` is that of `vae-ldm novelty fit`, and the anchor takes it too. `--model RUN` adds the residual of its
autoencoder to the heat maps. `--max-photos N` fits on N good photos at most. `--seeds` are divisions into folds.
`--divisions N` divides all good photos N times at random, two thirds of the groups to fit on and a third to judge, and
shows the mean rate of false alarms: of photos, and of photos that weigh one a group together, as is promised.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from novelty_anchor import Anchor, anchor_scores
from novelty_photos import groups_of, looked_at, made_copies, read
from novelty_tables import RATES, SINGLE, Results, interval, one, share
from novelty_where import Residuals, Where
from torch import Tensor

from vae_ldm.data.made_damage import KINDS
from vae_ldm.desk.backbone import open_backbone
from vae_ldm.desk.novelty.backbone_features import (
    THUMBNAIL_SIDE,
    features_from_stages,
    squares,
)
from vae_ldm.desk.novelty.made_photos import draw_sources, fit_strengths, make_copies
from vae_ldm.latent_space.novelty_scores.combination import FamilyCombination, auroc
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector, outer_folds
from vae_ldm.latent_space.novelty_scores.families import RawScores
from vae_ldm.latent_space.novelty_scores.fold_model import inner_scores
from vae_ldm.latent_space.novelty_scores.maps import PlaceMaps
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures
from vae_ldm.latent_space.novelty_scores.pixel_floor import PixelFloor
from vae_ldm.models.vision_features import VisionFeatures

NUM_TIMED = 128
MADE_A_KIND = 75
"""Of these the detector learns; a desk would make as many."""


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos with all that the scores, the floors and the anchor look at."""

    features: PhotoFeatures
    floors: Tensor
    """[N, 2]"""
    anchors: Tensor
    """[N, 3]"""
    anchor_maps: Tensor
    """[N, h, w]"""


def judged_photos(
    backbone: VisionFeatures, pictures: Sequence[np.ndarray], floor: PixelFloor, anchor: Anchor
) -> Photos:
    features, parts = zip(*((seen, anchor.maps(places)) for seen, places in looked_at(backbone, pictures)), strict=True)
    floors = floor(squares(pictures, THUMBNAIL_SIDE).flatten(1))
    maps = torch.cat(parts)
    return Photos(PhotoFeatures.cat(features), floors, anchor_scores(maps), maps)


def single_scores(photos: Photos, families: Tensor) -> Tensor:
    return torch.cat([photos.floors.double(), photos.anchors.double(), families], dim=1)


def judge_pack(pack: str, backbone: VisionFeatures, results: Results, options: argparse.Namespace) -> None:
    path, label, series = [*pack.split(":", 2), "", ""][:3]
    folder, name = Path(path), Path(path).name
    named, _ = read(folder / "train", label or None, options.max_photos)
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
    copies = [make_copies(usual_pictures, asked, kind, strengths, seed=8) for kind in KINDS]
    damaged = [judged_photos(backbone, [each.image for each in some], floor, anchor) for some in copies]
    where = Where(copies, Residuals(options.model) if options.model else None)

    real_ours: list[float] = []
    real_single: list[Tensor] = []
    made_ours, made_single = [], []
    within = ""
    for seed in range(options.seeds):
        began = time.process_time()
        detector = CrossFittedDetector.fit(good, made, groups, num_kinds=len(KINDS), seed=seed)
        fit_time = time.process_time() - began
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
            look = look_time(backbone, pictures)
            results.times.append([name, f"{len(good):,}", f"{1e3 * look:.1f}", f"{fit_time:.1f}"])
        single, ours, maps = left_out(detector, good, made, groups, usual, damaged, seed)
        if seed == 0:
            results.where += [[name, *row] for row in where.rows(maps, [photos.anchor_maps for photos in damaged])]
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
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """AUROC of single scores [kinds, scores] and of the combination [kinds], and of each kind our maps [3, N, P].

    None of them has seen the kind.
    """
    inner = [
        inner_scores(good, made, groups, detector.folds != fold, len(KINDS), seed)
        for fold in range(len(detector.models))
    ]
    of_usual = [model.scores(usual.features) for model in detector.models]
    single, ours, maps = [], [], []
    for left, photos in enumerate(damaged):
        kinds = torch.arange(len(KINDS)) != left
        scores, families, places = [], [], []
        for model, learned, raw in zip(detector.models, inner, of_usual, strict=True):
            combination = FamilyCombination.fit(learned.good, learned.made, learned.kinds, kinds)
            pair = raw, model.scores(photos.features)
            scores.append([combination(each) for each in pair])
            families.append([combination.families(each) for each in pair])
            places.append(place_maps(PlaceMaps.fit(learned.good, kinds), pair[1], kinds))
        mean = lambda parts: [torch.stack(side).mean(dim=0) for side in zip(*parts, strict=True)]  # noqa: E731
        ours.append(one(*mean(scores)))
        maps.append(torch.stack(places).mean(dim=0))
        low, high = mean(families)
        single.append(auroc(single_scores(usual, low), single_scores(photos, high)))
    return torch.stack(single), torch.tensor(ours), maps


def place_maps(maps: PlaceMaps, raw: RawScores, kinds: Tensor) -> Tensor:
    """[3, N, P]: the heat map, the memory of places alone, and the directions by place alone."""
    directions = raw.place_directions[..., kinds].double().mean(dim=2).sqrt()
    return torch.stack([maps(raw), raw.maps.double(), directions])


@torch.no_grad()
def look_time(backbone: VisionFeatures, pictures: Sequence[np.ndarray]) -> float:
    """CPU seconds from a decoded photo to its features."""
    some = pictures[:NUM_TIMED]
    began = time.process_time()
    for start in range(0, len(some), 32):
        images = squares(some[start : start + 32])
        features_from_stages(images, backbone.stages(images)).half()
    return (time.process_time() - began) / len(some)


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
    (means, by_group), (deviations, _) = (
        rates.mean(dim=0).tolist(),
        rates.std(dim=0, correction=min(1, len(found) - 1)).tolist(),
    )
    spreads = [f" (each division ± {deviation:.1%})" if len(found) > 1 else "" for deviation in deviations]
    return [
        f"{mean:.1%}{spread}, groups as one {weighed:.1%}"
        for mean, spread, weighed in zip(means, spreads, by_group, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", metavar="FOLDER[:GOOD_CLASS[:SERIES]]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--made-a-kind", type=int, default=60)
    parser.add_argument("--divisions", type=int, default=0)
    parser.add_argument("--max-photos", type=int)
    parser.add_argument("--backbone")
    parser.add_argument("--model", metavar="RUN")
    options = parser.parse_args()
    torch.set_num_threads(1)

    backbone = open_backbone(options.backbone).features
    results = Results()
    for pack in options.packs:
        judge_pack(pack, backbone, results, options)
    results.print()


if __name__ == "__main__":
    main()
