"""Distances between sets of pictures as measurements, each beside the distance of held-out real pictures."""

import torch
from torch import Tensor

from vae_ldm.evaluation.distribution import (
    frechet_dimensions,
    frechet_distance,
    kernel_distance,
    precision_recall,
    principal_axes,
)
from vae_ldm.evaluation.measurement import Better, Measurement, Stage
from vae_ldm.models.vision_features import VisionFeatures


def compare_sets(
    features: VisionFeatures, seen: Tensor, held_out: Tensor | None, made: Tensor, seed: int
) -> list[Measurement]:
    """Fréchet distance, KID, precision and recall of generated against training pictures, all [*, D] embeddings.

    The reference of each is the same number for held-out pictures, from as many of them as there are generated ones:
    all but KID depend on the number. The training side is whole, except for precision and recall.
    """
    num_images = min(len(x) for x in (seen, made, held_out) if x is not None)
    generator = torch.Generator().manual_seed(seed)

    def draw(embeddings: Tensor) -> Tensor:
        return embeddings[torch.randperm(len(embeddings), generator=generator)[:num_images]]

    made, as_many_seen = draw(made), draw(seen)
    held_out = None if held_out is None else draw(held_out)
    axes = FrechetAxes(features, seen, num_images)
    kid, manifolds = kernel_distance(seen, made, seed=seed), precision_recall(as_many_seen, made)
    reference_kid = None if held_out is None else kernel_distance(seen, held_out, seed=seed).value
    reference = None if held_out is None else precision_recall(as_many_seen, held_out)

    def measured(name: str, value: float, best: float | None, better: Better, **interval: float) -> Measurement:
        return Measurement(
            f"{name}_{features.name}",
            value,
            split="generated",
            num_images=num_images,
            stage="diffusion",
            better=better,
            reference=best,
            reference_name=None if best is None else "validation pictures",
            unit="",
            features=features.name,
            **interval,
        )

    return [
        axes.measurement(
            seen,
            made,
            split="generated",
            stage="diffusion",
            reference=None if held_out is None else axes.distance(seen, held_out),
            reference_name="validation pictures",
        ),
        measured("kid", kid.value, reference_kid, "lower", **kid.interval._asdict()),
        measured("precision", manifolds.precision, reference and reference.precision, "higher"),
        measured("recall", manifolds.recall, reference and reference.recall, "higher"),
    ]


class FrechetAxes:
    """The dimensions on which Fréchet distances are taken: all of them, or the training pictures' principal axes."""

    def __init__(self, features: VisionFeatures, seen: Tensor, num_images: int) -> None:
        count = frechet_dimensions(num_images, features.embedding_dim)
        self.axes = None if count == features.embedding_dim else principal_axes(seen, count)
        self.name = f"fd_{features.name}" if self.axes is None else f"fd_{features.name}_pca{count}"
        self.features = f"{features.name}, " + ("all" if self.axes is None else f"{count} principal axes of")
        self.features += f" {features.embedding_dim} dimensions"

    def distance(self, real: Tensor, generated: Tensor) -> float:
        """Fréchet distance of embeddings on these axes."""
        if self.axes is None:
            return frechet_distance(real, generated)
        return frechet_distance(real @ self.axes, generated @ self.axes)

    def measurement(
        self, real: Tensor, generated: Tensor, *, split: str, stage: Stage, reference: float | None, reference_name: str
    ) -> Measurement:
        """The distance with its context; its name says the dimensions, since values on others are not comparable."""
        return Measurement(
            self.name,
            self.distance(real, generated),
            "",
            split,
            len(generated),
            stage,
            better="lower",
            features=self.features,
            reference=reference,
            reference_name=None if reference is None else reference_name,
        )
