"""How well heat maps show where made damage is: the table "Where" of `benchmarks/novelty.py`."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.data.made_damage import KINDS, MadeDamage
from vae_ldm.desk.novelty.backbone_features import damaged_shares, squares
from vae_ldm.evaluation.region_overlap import region_overlap
from vae_ldm.latent_space.novelty_scores.combination import auroc
from vae_ldm.loading import load_autoencoder
from vae_ldm.opening import settings_of

LOCAL_KINDS = KINDS[: KINDS.index("shading")]
"""The kinds that leave most of a photo as it was; the others damage all of it."""
SIDES = (14, 56)
"""Maps are judged on so many places a side."""
MAPS = ("heat map", "memory alone", "directions alone", "anchor", "residual alone")
_HALF = 0.5


class Residuals:
    """How badly the autoencoder of a run reconstructs each pixel of photos."""

    def __init__(self, run: str) -> None:
        self.autoencoder = load_autoencoder(run, device=torch.device("cpu"))
        self.image_size = settings_of(run).image_size or (64, 64)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Root of the mean square over channels [N, h, w], at the run's size, of whole photos, uint8 [H, W, C] each."""
        found = []
        for start in range(0, len(pictures), 32):
            images = squares(pictures[start : start + 32])[:, : self.autoencoder.channels]
            images = F.interpolate(images, self.image_size, mode="bilinear", antialias=True, align_corners=False)
            decoded = self.autoencoder.decode_raw(self.autoencoder.posterior(images).mean)
            decoded = decoded[..., : images.shape[2], : images.shape[3]]
            found.append((decoded - images).square().mean(dim=1).sqrt())
        return torch.cat(found)


class Where:
    """Made damage whose masks are known, and how well maps of it agree with them."""

    def __init__(self, copies: Sequence[Sequence[MadeDamage]], residuals: Residuals | None) -> None:
        """`copies` of each of KINDS."""
        local = copies[: len(LOCAL_KINDS)]
        self.masks = [{side: damaged_places([each.mask for each in some], side) for side in SIDES} for some in local]
        self.residuals = [residuals([each.image for each in some]) for some in local] if residuals else None

    def rows(self, ours: Sequence[Tensor], anchors: Sequence[Tensor]) -> Iterator[list[str]]:
        """Rows of the table: our maps [3, N, P] and the anchor's [N, h, w] of each of KINDS."""
        columns: list[list[Tensor]] = [[] for _ in MAPS]
        for index in range(len(LOCAL_KINDS)):
            side = round(ours[index].shape[2] ** 0.5)
            for column, maps in zip(columns, [*ours[index].unflatten(2, (side, side)), anchors[index]], strict=False):
                column.append(maps)
        columns[-1] = list(self.residuals or [])
        for side in SIDES:
            masks = [each[side] for each in self.masks]
            for name, measure in (("pixel AUROC", pixel_auroc), ("PRO", region_overlap)):
                values = [
                    [measure(resized(maps, side), mask) for maps, mask in zip(column, masks, strict=True)]
                    for column in columns
                    if column
                ]
                means = [f"{sum(kinds) / len(kinds):.3f}" for kinds in values]
                yield [f"{side} x {side}", name, *means, *[""] * (len(MAPS) - len(means))]


def damaged_places(masks: Sequence[np.ndarray], side: int) -> Tensor:
    """Which of side x side places are damaged, bool [N, side, side]: those that damage covers by half, and where it
    covers none so far those that it covers most, as novelty's own directions have it."""
    shares = damaged_shares(masks, side**2).float().unflatten(1, (side, side))
    return shares >= shares.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6, max=_HALF)


def resized(maps: Tensor, side: int) -> Tensor:
    """Maps [N, side, side] of maps [N, h, w]: averaged where they are finer, enlarged where they are coarser."""
    return F.interpolate(maps.double()[:, None], (side, side), mode="bilinear", antialias=True, align_corners=False)[
        :, 0
    ]


def pixel_auroc(maps: Tensor, masks: Tensor) -> float:
    return auroc(maps[~masks][:, None], maps[masks][:, None]).item()
