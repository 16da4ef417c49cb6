"""Whether rendered claims can be told apart, and what they cost: plain and fine.

    python benchmarks/rendered_claims.py --sizes 64 --sheet sheet.png

The probe classifier of `evaluate` is fitted on `--fitted` pictures, the classes in turn, and judges `--judged` others;
in brackets 95 % intervals by Wilson. The times are CPU time of one thread for a picture of every class, plain and fine
in alternation, the median of `--rounds`. `--sheet` writes fine pictures of every class, `--columns` each. Tables in
Markdown.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from novelty_tables import share
from PIL import Image

from vae_ldm.choices import Detail
from vae_ldm.data.rendered_claims import CLASS_NAMES, render_claim
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.models.vision_features import VisionFeatures, load_efficientnet_lite

GROUPS = ("", "good", "cracked", "scratched", "dented", "laptop bezel", "parcel", "tin", "shipping label")
FIRST_JUDGED = 2**32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--details", nargs="+", choices=get_args(Detail), default=list(get_args(Detail)))
    parser.add_argument("--fitted", type=int, default=1300)
    parser.add_argument("--judged", type=int, default=650)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.sheet is not None:
        draw_sheet(settings.sizes[0], settings.columns).save(settings.sheet)
    features = load_efficientnet_lite()
    print(f"| detail | px | {' | '.join(group or 'all' for group in GROUPS)} |\n|{'---|' * (len(GROUPS) + 2)}")
    for size in settings.sizes:
        for detail in settings.details:
            shares = judge(features, detail, size, settings.fitted, settings.judged)
            print(f"| {detail} | {size} | {' | '.join(shares)} |", flush=True)
    if settings.rounds:
        print("\n| px | plain, CPU ms | fine, CPU ms | ratio |\n|---|---|---|---|")
        for size in settings.sizes:
            plain, fine = times(size, settings.rounds)
            print(f"| {size} | {plain:.2f} | {fine:.2f} | {fine / plain:.2f} |")


def judge(features: VisionFeatures, detail: Detail, size: int, fitted: int, judged: int) -> list[str]:
    """The share of pictures whose class the probe names, of all and of each group."""
    pictures, labels = draw(0, fitted, detail, size)
    probe = ProbeClassifier.fit(pictures, labels, len(CLASS_NAMES), features=features, seed=0)
    pictures, labels = draw(FIRST_JUDGED, judged, detail, size)
    right = probe.agrees(pictures, torch.from_numpy(labels))
    chosen = (torch.tensor([group in CLASS_NAMES[label] for label in labels]) for group in GROUPS)
    return [share(right[rows]) for rows in chosen]


def draw(first_seed: int, count: int, detail: Detail, size: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % len(CLASS_NAMES)
    claims = [
        render_claim(first_seed + number, label=int(label), image_size=(size, size), detail=detail)
        for number, label in enumerate(labels)
    ]
    return np.stack([np.asarray(claim.image) for claim in claims]), labels


def times(size: int, rounds: int) -> tuple[float, float]:
    """CPU milliseconds for a plain and for a fine picture."""
    taken: dict[Detail, list[float]] = {detail: [] for detail in get_args(Detail)}
    for number in range(rounds + 1):
        for detail, each in taken.items():
            start = time.process_time()
            draw(number * len(CLASS_NAMES), len(CLASS_NAMES), detail, size)
            each.append((time.process_time() - start) * 1000 / len(CLASS_NAMES))
    plain, fine = (statistics.median(each[1:]) for each in taken.values())  # the first round warms up
    return plain, fine


def draw_sheet(size: int, columns: int) -> Image.Image:
    """Fine pictures, a row for each class."""
    gap = max(2, size // 32)
    sheet = Image.new("RGB", (columns * (size + gap) - gap, len(CLASS_NAMES) * (size + gap) - gap), "white")
    for label in range(len(CLASS_NAMES)):
        for column in range(columns):
            claim = render_claim(column, label=label, image_size=(size, size), detail="fine")
            sheet.paste(claim.image, (column * (size + gap), label * (size + gap)))
    return sheet


if __name__ == "__main__":
    main()
