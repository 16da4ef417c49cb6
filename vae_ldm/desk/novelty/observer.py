"""What looks at photos for novelty: a frozen vision backbone, which sees each of them whole."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from vae_ldm.data.photo_stream import WholePhotos, whole_batches
from vae_ldm.data.sources import Record
from vae_ldm.desk.backbone import open_backbone
from vae_ldm.desk.novelty.backbone_features import features_from_stages, squares
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures

LONGEST_SIDE = 512
"""Photos are decoded at so many px, damaged where damage is made, and only then brought to the backbone's square."""


class PhotoObserver:
    """A backbone that looks at whole photos, each brought to one square whatever its proportions."""

    def __init__(
        self, backbone: str | None = None, *, downloads: bool = True, device: torch.device | None = None
    ) -> None:
        """Arguments and errors as of `open_backbone`."""
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        opened = open_backbone(backbone, downloads=downloads, device=self.device)
        self._network, self.digest = opened.features, opened.digest

    @property
    def name(self) -> str:
        """What stands beside every number measured on these features."""
        return self._network.name

    def batches(
        self,
        records: Sequence[Record],
        *,
        batch_size: int = 32,
        on_unreadable: Callable[[Record, str], None] | None = None,
    ) -> Iterator[WholePhotos]:
        """The photos in order, as `__call__` looks at them."""
        return whole_batches(records, LONGEST_SIDE, batch_size=batch_size, on_unreadable=on_unreadable)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[np.ndarray]) -> PhotoFeatures:
        """What is seen in pictures, uint8 [H, W, C] each of any size: in half precision, as a detector stores it."""
        images = squares(pictures).to(self.device)
        return features_from_stages(images, self._network.stages(images)).half()
