"""How well each novelty score tells damage of a kind that it was not fitted on, beside linear floors.

    python benchmarks/novelty_detector.py ../shared/data/damage_cans --model runs/damage-cans-64 --normal no_defect

Two tables in Markdown. One class: fitted on the normal class of `train/`, all other classes of `validation/` against
the normal one. Left out: for each class in turn fitted on all others, the photos of that class against those of the
others, all of `validation/`; and how many photos of the others are called novel at a nominal 5 %, calibrated on a
third of `train/` that nothing was fitted on. AUROC with a 95 % bootstrap interval over photos.

An autoencoder that was trained on the whole pack has seen the class that is left out; a backbone trained on ImageNet
has not. The tables name both; --features backbone leaves the first out.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from vae_ldm.choices import FeatureKind
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.sources import Record
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.desk.novelty.detector import all_scores
from vae_ldm.desk.novelty.novelty import PATCH_BUDGET
from vae_ldm.desk.novelty.observer import PhotoObserver, some_patches
from vae_ldm.evaluation.interval import share_interval
from vae_ldm.latent_space.conformal import threshold
from vae_ldm.latent_space.novelty import SCORE_NAMES, Combination, Observations, Scorers, held_out_scores
from vae_ldm.models.pixels import as_images

RATE = 0.05
NUM_RESAMPLES = 1000
PCA_VARIANCE = 0.95
MAX_CALIBRATION = 600


@dataclass(frozen=True, eq=False)
class Photos:
    """Some photos with all that the scores and the floors look at."""

    records: list[Record]
    seen: Observations
    pixels: Tensor
    """[N, numbers of a picture]"""

    def rows(self, classes: Sequence[str]) -> Tensor:
        return torch.tensor([row for row, record in enumerate(self.records) if record.label in classes])

    def __getitem__(self, rows: Tensor) -> "Photos":
        return Photos([self.records[row] for row in rows], self.seen[rows], self.pixels[rows])


def observe(observer: PhotoObserver, records: Sequence[Record], patches_a_photo: int | None = None) -> Photos:
    kept, seen, pixels = [], [], []
    for batch in observer.encoder.batches(records):
        each = observer(batch).observations
        patches = each.patches if patches_a_photo is None else some_patches(batch, each.patches, patches_a_photo)
        # In half precision: all places of all validation photos are kept, to be scored by every detector.
        seen.append(replace(each, patches=patches.half()))
        kept += batch.records
        pixels.append(as_images(batch.images[0]).flatten(1))
    return Photos(kept, Observations.cat(seen), torch.cat(pixels))


def scores_of(scorers: Scorers, combination: Combination, photos: Photos) -> Tensor:
    parts = []
    for rows in torch.arange(len(photos.records)).split(32):
        some = photos.seen[rows]
        parts.append(all_scores(scorers, combination, replace(some, patches=some.patches.float())))
    return torch.cat(parts)


def pca_floors(reference: Tensor, photos: Tensor) -> Tensor:
    """Error of the PCA that keeps 95 % of the variance, and distance to the five nearest in its space: [N, 2]."""
    mean = reference.mean(dim=0)
    _, singular, axes = torch.linalg.svd(reference - mean, full_matrices=False)
    share = singular.square().cumsum(0) / singular.square().sum()
    axes = axes[: int((share < PCA_VARIANCE).sum()) + 1]
    known, asked = (reference - mean) @ axes.T, (photos - mean) @ axes.T
    error = (photos - mean - asked @ axes).square().mean(dim=1)
    nearest = torch.cdist(asked, known).topk(min(5, len(known)), largest=False).values.mean(dim=1)
    return torch.stack([error, nearest], dim=1).double()


def auroc(novel: Tensor, seen: Tensor) -> float:
    # By ranks: torchmetrics would pass scores through a sigmoid, in which the highest become equal.
    _, ranks = torch.cat([novel, seen]).unique(return_inverse=True)
    target = torch.cat([torch.ones(len(novel)), torch.zeros(len(seen))]).int()
    return binary_auroc(ranks.double() / max(int(ranks.max()), 1), target).item()


def auroc_with_interval(novel: Tensor, seen: Tensor) -> tuple[float, str]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda some: some[torch.randint(len(some), (len(some),), generator=generator)]  # noqa: E731
    drawn = torch.tensor([auroc(draw(novel), draw(seen)) for _ in range(NUM_RESAMPLES)])
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    value = auroc(novel, seen)
    return value, f"{value:.3f} [{low:.2f}, {high:.2f}]"


def fitted(observer: PhotoObserver, reference: Photos) -> tuple[Scorers, Combination]:
    seen = reference.seen
    count, stored = seen.patches.shape[:2]
    places = torch.rand(count, stored, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    places = places[:, : max(1, PATCH_BUDGET // count)]  # as many as `novelty fit` would take
    patches = seen.patches[torch.arange(count)[:, None], places].float()
    seen = replace(seen, patches=patches)
    combination = Combination.fit(held_out_scores(seen, num_pixels=observer.num_pixels))
    return Scorers.fit(seen, num_pixels=observer.num_pixels), combination


def by_hash(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: hashlib.sha256(record.id.encode()).digest())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--normal", required=True)
    parser.add_argument("--features", default="both", choices=get_args(FeatureKind))
    parser.add_argument("--skip-left-out", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)

    observer = PhotoObserver(PhotoEncoder(options.model, kind=options.features))
    train = by_hash(photo_records(options.pack / "train"))
    count = len(train) // 3
    held_out, known = train[:count][:MAX_CALIBRATION], train[count:]
    normal_known = sum(record.label == options.normal for record in known)
    reference = observe(observer, known, max(1, PATCH_BUDGET // max(normal_known, 1)))
    calibration = observe(observer, held_out)
    validation = observe(observer, photo_records(options.pack / "validation"))
    classes = sorted({record.label for record in validation.records if record.label is not None})
    damages = [label for label in classes if label != options.normal]
    height, width = observer.encoder.image_size
    print(f"{options.pack.name}, {options.model} at {height}x{width}, features {observer.encoder.features_name}\n")

    columns = [*SCORE_NAMES, "PCA error", "5-NN in PCA"]

    def judged(fit_on: Sequence[str]) -> tuple[Photos, Tensor, Tensor]:
        chosen = reference[reference.rows(fit_on)]
        scorers, combination = fitted(observer, chosen)
        held = calibration[calibration.rows(fit_on)]
        validated = torch.cat(
            [scores_of(scorers, combination, validation), pca_floors(chosen.pixels, validation.pixels)], dim=1
        )
        return chosen, validated, scores_of(scorers, combination, held)

    def called_novel(scores: Tensor, held: Tensor, rows: Tensor, rate: float = RATE) -> str:
        hits = int((scores[rows, 0] > threshold(held[:, 0], rate)).sum())
        low, high = share_interval(hits, len(rows))
        return f"{hits / len(rows):.1%} [{low:.0%}, {high:.0%}] of {len(rows)}"

    chosen, scores, held = judged([options.normal])
    novel, usual = validation.rows(damages), validation.rows([options.normal])
    print(f"Fitted on {len(chosen.records)} photos of {options.normal}; {len(novel)} others against {len(usual)}:\n")
    print("| score | AUROC |\n|---|---|")
    for column, name in enumerate(columns):
        print(f"| {name} | {auroc_with_interval(scores[novel, column], scores[usual, column])[1]} |")
    print(f"\nBy the combination, {len(held)} calibration photos:\n")
    print("| nominal rate | damage found | false alarms |\n|---|---|---|")
    for rate in (RATE, 2 * RATE):
        caught, alarmed = (called_novel(scores, held, rows, rate) for rows in (novel, usual))
        print(f"| {rate:.0%} | {caught} | {alarmed} |")
    if options.skip_left_out:
        return

    print(f"\n| left out | {' | '.join(columns)} | false alarms at 5 % |")
    print("|---" * (len(columns) + 2) + "|")
    means: list[list[float]] = []
    for label in classes:
        others = [other for other in classes if other != label]
        _, scores, held = judged(others)
        novel, usual = validation.rows([label]), validation.rows(others)
        found = [auroc_with_interval(scores[novel, at], scores[usual, at]) for at in range(len(columns))]
        means.append([value for value, _ in found])
        cells = [f"{label} ({len(novel)})", *(text for _, text in found), called_novel(scores, held, usual)]
        print(f"| {' | '.join(cells)} |")
    average = torch.tensor(means).mean(dim=0).tolist()
    print(f"| mean | {' | '.join(f'{value:.3f}' for value in average)} | |")


if __name__ == "__main__":
    main()
