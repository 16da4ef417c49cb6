"""Distances between sets of pictures as measurements, each beside the distance of held-out real pictures."""

import torch
from torch import Tensor

from vae_ldm.choices import Stage
from vae_ldm.evaluation.distribution import (
    frechet_dimensions,
    frechet_distance,
    frechet_interval,
    kernel_distance,
    precision_recall,
    principal_axes,
)
from vae_ldm.evaluation.interval import Interval
from vae_ldm.evaluation.measurement import Better, Measurement, Reference
from vae_ldm.models.vision_features import VisionFeatures

_HELD_OUT = "validation pictures"


def compare_sets(
    features: VisionFeatures, seen: Tensor, held_out: Tensor | None, made: Tensor, seed: int, composition: str = ""
) -> list[Measurement]:
    """Fréchet distance, KID, precision and recall of generated against training pictures, all [*, D] embeddings.

    The reference of each is the same number for held-out pictures, from as many of them as there are generated ones:
    all but KID depend on the number. The training side is whole, except for precision and recall. `composition` says
    how the generated pictures are spread over the classes, and stands with the features.
    """
    num_images = min(len(x) for x in (seen, made, held_out) if x is not None)
    generator = torch.Generator().manual_seed(seed)

    def draw(embeddings: Tensor) -> Tensor:
        return embeddings[torch.randperm(len(embeddings), generator=generator)[:num_images]]

    made, as_many_seen = draw(made), draw(seen)
    held_out = None if held_out is None else draw(held_out)
    axes = FrechetAxes(features, seen, num_images)
    kid, manifolds = kernel_distance(seen, made, seed=seed), precision_recall(as_many_seen, made)
    reference_kid = None if held_out is None else kernel_distance(seen, held_out, seed=seed)
    reference = None if held_out is None else precision_recall(as_many_seen, held_out)

    def measured(
        name: str, value: float, interval: Interval, best: tuple[float, Interval] | None, better: Better
    ) -> Measurement:
        return Measurement.of(
            f"{name}_{features.name}",
            value,
            split="generated",
            num_images=num_images,
            stage="diffusion",
            better=better,
            features=features.name + composition,
            interval=interval,
            reference=None if best is None else Reference(best[0], _HELD_OUT, "limit", best[1]),
        )

    return [
        axes.measurement(
            seen,
            made,
            split="generated",
            stage="diffusion",
            reference=None if held_out is None else axes.reference(seen, held_out, _HELD_OUT),
            composition=composition,
        ),
        measured("kid", kid.value, kid.interval, reference_kid, "lower"),
        measured(
            "precision",
            manifolds.precision,
            manifolds.precision_interval,
            None if reference is None else (reference.precision, reference.precision_interval),
            "higher",
        ),
        measured(
            "recall",
            manifolds.recall,
            manifolds.recall_interval,
            None if reference is None else (reference.recall, reference.recall_interval),
            "higher",
        ),
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

    def interval(self, real: Tensor, generated: Tensor, *, paired: bool = False) -> Interval:
        """95 % interval of `distance`; `paired`: row i of both is of one picture."""
        if self.axes is None:
            return frechet_interval(real, generated, paired=paired)
        return frechet_interval(real @ self.axes, generated @ self.axes, paired=paired)

    def reference(self, real: Tensor, other: Tensor, name: str) -> Reference:
        """The distance of other real pictures, which nobody is blamed for not passing."""
        return Reference(self.distance(real, other), name, "limit", self.interval(real, other))

    def measurement(
        self,
        real: Tensor,
        generated: Tensor,
        *,
        split: str,
        stage: Stage,
        reference: Reference | None,
        paired: bool = False,
        composition: str = "",
    ) -> Measurement:
        """The distance with its context; its name says the dimensions, since values on others are not comparable."""
        return Measurement.of(
            self.name,
            self.distance(real, generated),
            split=split,
            num_images=len(generated),
            stage=stage,
            better="lower",
            features=self.features + composition,
            interval=self.interval(real, generated, paired=paired),
            reference=reference,
        )
