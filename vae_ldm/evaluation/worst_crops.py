"""Where pictures lost most: the crops with the lowest PSNR."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

CROP_SIDE = 64
NUM_CROPS = 10


class Crop(NamedTuple):
    """A square of one picture."""

    row: int
    top: int
    left: int
    side: int
    psnr: float

    def of(self, pictures: np.ndarray) -> np.ndarray:
        """These pixels of `pictures` [N, H, W, C]: [side, side, C]."""
        return pictures[self.row, self.top : self.top + self.side, self.left : self.left + self.side]


def worst_crops(originals: np.ndarray, pictures: np.ndarray, count: int = NUM_CROPS) -> list[Crop]:
    """The crops that lost most, at most one a picture, the worst first; both uint8 [N, H, W, C]."""
    side = min(CROP_SIDE, *originals.shape[1:3])
    stride = max(1, side // 4)
    crops = []
    for row, (original, made) in enumerate(zip(originals, pictures, strict=True)):
        error = ((original.astype(np.float32) - made) ** 2).mean(axis=-1)
        means = F.avg_pool2d(torch.from_numpy(error)[None, None], side, stride)[0, 0]
        place = int(means.argmax())
        top, left = (index * stride for index in divmod(place, means.shape[1]))
        worst = max(means.max().item(), 1e-6)
        crops.append(Crop(row, top, left, side, 10 * np.log10(255**2 / worst)))
    return sorted(crops, key=lambda crop: crop.psnr)[:count]
