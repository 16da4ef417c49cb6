"""Which drawn pictures are worth training on: new ones, of the class that they were drawn for."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.memorisation import (
    Neighbours,
    copies,
    flat_pixels,
    nearest_in_features,
    nearest_in_flat_pixels,
    too_near,
)
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.models.joined_pictures import PictureArray
from vae_ldm.models.vision_features import VisionFeatures
from vae_ldm.text import counted


@dataclass(frozen=True, eq=False)
class FilterResult:
    """What the filter says of N pictures, [N] each."""

    near_copy: Tensor
    """Booleans: nearer to a training photo than held-out photos are, or out of all proportion near to one."""
    off_class: Tensor
    """Booleans: the probe sees another class, or is not sure enough of this one."""
    nearest: Tensor
    """The nearest training photo, by features."""
    feature_distance: Tensor
    """To it, between unit vectors, in [0, 2]."""
    pixel_distance: Tensor
    """Root mean square difference to the photo nearest in pixels or in the mirror, in [0, 2]."""
    confidence: Tensor
    """The probe's probability of the class that was drawn, in [0, 1]."""

    @property
    def keep(self) -> Tensor:
        """Booleans: neither of the two faults."""
        return ~(self.near_copy | self.off_class)


@dataclass(frozen=True, eq=False)
class CandidateFilter:
    """Training photos in two spaces, how near held-out photos come to them, and a probe that was fitted on them.

    A near copy is what `memorisation.too_near` or `memorisation.copies` says, by features or by pixels. Held-out photos
    set the bar and nothing else; the probe has not seen them.
    """

    features: VisionFeatures
    probe: ProbeClassifier
    train_embeddings: Tensor
    train_pixels: Tensor
    held_out_in_features: Neighbours
    held_out_in_pixels: Neighbours
    min_confidence: float = 0.0

    @classmethod
    def fit(
        cls,
        train: PictureArray,
        held_out: PictureArray,
        *,
        features: VisionFeatures,
        probe: ProbeClassifier,
        train_embeddings: Tensor,
        min_confidence: float = 0.0,
    ) -> Self:
        """A filter fitted on uint8 pictures [N, H, W, C]; `embeddings` [N, D] are those of the training pictures."""
        pixels = flat_pixels(train)
        return cls(
            features,
            probe,
            train_embeddings,
            pixels,
            nearest_in_features(embed_pictures(features, held_out), train_embeddings),
            nearest_in_flat_pixels(held_out, pixels),
            min_confidence,
        )

    @property
    def num_duplicates(self) -> int:
        """Held-out photos that are training photos as well, by features or by pixels: they set no bar."""
        return int((self.held_out_in_features.duplicates | self.held_out_in_pixels.duplicates).sum())

    def __call__(self, pictures: np.ndarray, labels: Tensor) -> FilterResult:
        """The judgement of uint8 pictures [N, H, W, C] that were drawn for classes [N]."""
        in_features = nearest_in_features(embed_pictures(self.features, pictures), self.train_embeddings)
        in_pixels = nearest_in_flat_pixels(pictures, self.train_pixels)
        near_copy = (
            too_near(in_features, self.held_out_in_features)
            | copies(in_features)
            | too_near(in_pixels, self.held_out_in_pixels)
            | copies(in_pixels)
        )
        probabilities = self.probe.probabilities(pictures)
        confidence = probabilities.gather(1, labels[:, None]).squeeze(1)
        off_class = (probabilities.argmax(dim=1) != labels) | (confidence < self.min_confidence)
        return FilterResult(
            near_copy, off_class, in_features.indices, in_features.distances, in_pixels.distances, confidence
        )


def probe_facts(probe: ProbeClassifier, pictures: np.ndarray, labels: np.ndarray) -> dict[str, Any] | None:
    """How often the probe is right on uint8 pictures [N, H, W, C] of classes [N], which it has not seen; None for N 0.

    The result is what `probe_in_words` takes and a JSON file holds.
    """
    if not len(labels):
        return None
    agrees = probe.agrees(pictures, torch.from_numpy(labels).long())
    return {"num_photos": len(labels), "accuracy": round(agrees.float().mean().item(), 4)}


def probe_in_words(facts: dict[str, Any] | None) -> str:
    """What `probe_facts` found, in a sentence; "" where nothing was measured."""
    if facts is None:
        return ""
    return (
        f"The probe that looks for other classes is right on {100 * facts['accuracy']:.1f} % of "
        f"{counted(facts['num_photos'], 'real photo')} that it has not seen."
    )
