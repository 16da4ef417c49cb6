"""The share of random latents that decode to something that looks like a patch; the others fall into holes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_ldm.lesson.patches import NUM_PIXELS, Array, Patches

REAL_SHARE = 0.95  # of the validation patches are closer to a training patch than the threshold


@dataclass(frozen=True)
class DrawScore:
    """`real`: share of decoded draws that lie close to a real patch. `coverage`: share of real patches near a draw.

    Both are needed: a decoder that gives one good patch for every latent has `real` 1 and `coverage` near 0. They are
    precision and recall (Kynkaanniemi 2019), with one radius for all patches.
    """

    real: float
    coverage: float


class HoleMeter:
    """Judges decoded draws by their distance to real patches, compared with the distances between real patches."""

    def __init__(self, train: Patches, validation: Patches) -> None:
        self.train = train.pixels
        self.validation = validation.pixels
        self.threshold = float(np.quantile(distance_to_nearest(self.validation, self.train), REAL_SHARE))
        """Root mean squared error a pixel: 95 % of the validation patches have a training patch closer than this."""

    def looks_real(self, pixels: Array) -> NDArray[np.bool_]:
        """Which of `pixels` [N, 25] are closer than the threshold to a training patch: bool [N]."""
        return distance_to_nearest(pixels, self.train) < self.threshold

    def score(self, pixels: Array) -> DrawScore:
        """How well decoded draws [N, 25] stand for real patches."""
        covered = distance_to_nearest(self.validation, pixels) < self.threshold
        return DrawScore(float(self.looks_real(pixels).mean()), float(covered.mean()))


def distance_to_nearest(pixels: Array, others: Array) -> Array:
    """Root mean squared error a pixel between each of `pixels` [N, 25] and the nearest of `others` [M, 25]: [N]."""
    squared = (pixels**2).sum(1)[:, None] - 2 * pixels @ others.T + (others**2).sum(1)
    return np.sqrt(np.maximum(squared.min(axis=1), 0) / NUM_PIXELS)
