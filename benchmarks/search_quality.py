"""How often the photo found first is of the right class: latents, backbone, both, and pixels as the floor.

    OMP_NUM_THREADS=2 python benchmarks/search_quality.py PACK --model RUN [--gallery 400] [--queries 200]

Every photo of PACK/validation asks for photos of PACK/train. recall@1 is the share whose nearest photo has the same
class; mAP@10 is the mean over queries of the average precision of the first ten, of at most ten there are to find.
Macro: every class weighs the same. In brackets bootstrap intervals of 95 %, over the queries.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.choices import FeatureKind
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.sources import Record, sort_class_names
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.evaluation.interval import bootstrap_interval
from vae_ldm.evaluation.memorisation import shrink
from vae_ldm.latent_space.features import FeaturePart, FeatureSpace, Whitening, parts_of
from vae_ldm.latent_space.vector_index import ExactIndex
from vae_ldm.terminal import quieten_libraries

K = 10
PIXEL_SIDE = 32


class Split:
    """The photos of one split, as every feature sees them."""

    def __init__(self, encoder: PhotoEncoder, records: Sequence[Record]) -> None:
        raw: dict[FeaturePart, list[Tensor]] = {part: [] for part in parts_of(encoder.kind)}
        pixels, self.labels = [], []
        for batch in encoder.batches([record for record in records if record.label is not None]):
            for part, vectors in encoder.vectors(batch).items():
                raw[part].append(vectors)
            pixels.append(shrink(batch.images[0], PIXEL_SIDE).flatten(1))
            self.labels += [str(record.label) for record in batch.records]
        self.raw = {part: torch.cat(vectors) for part, vectors in raw.items()}
        self.pixels = torch.cat(pixels)


def scores(gallery: Tensor, queries: Tensor, of_gallery: Tensor, of_queries: Tensor) -> tuple[Tensor, Tensor]:
    """recall@1 and average precision at 10, one value a query, of unit vectors and class numbers."""
    index = ExactIndex(gallery.shape[1])
    index.add(gallery)
    right = (of_gallery[index.search(queries, K).rows] == of_queries[:, None]).double()
    to_find = torch.bincount(of_gallery, minlength=int(of_queries.max()) + 1)[of_queries].clamp(max=K)
    precision = right.cumsum(dim=1) / torch.arange(1, right.shape[1] + 1)
    return right[:, 0], (right * precision).sum(dim=1) / to_find.clamp(min=1)


def by_class(values: Tensor, classes: Tensor) -> dict[int, float]:
    """The mean of each class that has queries."""
    return {int(one): values[classes == one].mean().item() for one in classes.unique()}


def macro(values: Tensor, classes: Tensor) -> str:
    """The mean of the classes' means, with its interval."""
    counts = torch.bincount(classes)[classes].double()
    weighed = values * len(values) / counts / len(classes.unique())
    return plain(weighed)


def plain(values: Tensor) -> str:
    """The mean of values [N], with its interval where there are several."""
    interval = bootstrap_interval(values)
    ends = "" if interval is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{values.mean():.3f}{ends}"


def limited(records: list[Record], limit: int) -> list[Record]:
    """At most so many, evenly spread."""
    return [records[row] for row in np.linspace(0, len(records) - 1, min(limit, len(records))).astype(int)]


def contestants(train: Split, validation: Split, encoder: PhotoEncoder) -> dict[str, tuple[Tensor, Tensor]]:
    """Unit vectors of both splits by the name of the feature; all that is fitted is fitted on train."""
    found = {}
    for kind in get_args(FeatureKind):
        space = FeatureSpace.fit(kind, train.raw)
        named = {"latents": "latents", "backbone": encoder.backbone.name if encoder.backbone else "", "both": "both"}
        found[named[kind]] = space(train.raw), space(validation.raw)
    mean = train.pixels.mean(dim=0)
    centred = [F.normalize(split.pixels - mean, dim=1) for split in (train, validation)]
    found[f"pixels at {PIXEL_SIDE} px"] = centred[0], centred[1]
    pca = Whitening.fit(train.pixels)
    white = [F.normalize(pca(split.pixels), dim=1) for split in (train, validation)]
    found["PCA of pixels"] = white[0], white[1]
    return found


def measure(pack: Path, model: str, gallery: int, queries: int) -> None:
    encoder = PhotoEncoder(model, kind="both")
    train = Split(encoder, limited(photo_records(pack / "train"), gallery))
    validation = Split(encoder, limited(photo_records(pack / "validation"), queries))
    report(f"{pack.name}, {model}", encoder, train, validation)


def report(title: str, encoder: PhotoEncoder, train: Split, validation: Split) -> None:
    names = sort_class_names([*train.labels, *validation.labels])
    of_train, of_validation = (
        torch.tensor([names.index(label) for label in split.labels]) for split in (train, validation)
    )
    print(f"\n## {title}\n")
    size = "x".join(map(str, encoder.image_size))
    side = "x".join(map(str, encoder.backbone_size))
    print(
        f"{len(validation.labels)} photos of validation ask for {len(train.labels)} of train, {len(names)} classes; "
        f"autoencoder at {size} px, backbone at {side} px.\n"
    )
    print("| features | numbers | recall@1 | recall@1, macro | mAP@10 | mAP@10, macro |\n|---|---|---|---|---|---|")
    recalls = {}
    for name, (gallery, queries) in contestants(train, validation, encoder).items():
        first, precision = scores(gallery, queries, of_train, of_validation)
        recalls[name] = by_class(first, of_validation)
        cells = [plain(first), macro(first, of_validation), plain(precision), macro(precision, of_validation)]
        print(f"| {name} | {gallery.shape[1]} | {' | '.join(cells)} |")
    print(f"\n| recall@1 by class | queries | {' | '.join(recalls)} |\n|---|---|{'---|' * len(recalls)}")
    for number in of_validation.unique().tolist():
        cells = [f"{recall[number]:.2f}" for recall in recalls.values()]
        print(f"| {names[number]} | {int((of_validation == number).sum())} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--gallery", type=int, default=10_000, help="photos of train at most, evenly spread")
    parser.add_argument("--queries", type=int, default=10_000, help="photos of validation at most, evenly spread")
    arguments = parser.parse_args()
    quieten_libraries()
    for model in arguments.model:
        measure(arguments.pack, model, arguments.gallery, arguments.queries)


if __name__ == "__main__":
    main()
