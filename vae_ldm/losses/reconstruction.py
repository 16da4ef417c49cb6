"""How far a reconstruction is from its picture, pixel by pixel and window by window; images [B, C, H, W] in [-1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def l1_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error over channels and pixels, one value per image in [0, 2]: [B]."""
    return F.l1_loss(reconstruction.float(), images, reduction="none").flatten(1).mean(1)


def l2_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error over channels and pixels, one value per image in [0, 4]: [B]."""
    return F.mse_loss(reconstruction.float(), images, reduction="none").flatten(1).mean(1)


def huber_error(reconstruction: Tensor, images: Tensor, *, delta: float) -> Tensor:
    """Mean Huber error over channels and pixels, one value per image: [B].

    Half the square below `delta`, delta (|x| - delta / 2) above it (Huber 1964).
    """
    return F.huber_loss(reconstruction.float(), images, reduction="none", delta=delta).flatten(1).mean(1)


def ssim_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """1 - SSIM, one value per image in [0, 2]: [B] (Wang 2004: 11x11 Gaussian window, sigma 1.5).

    Sides from 6 px, because borders are reflected by 5.
    """
    # SSIM subtracts squared means from mean squares, which bfloat16 cannot; and its luminance term compares
    # means that must not be negative, so the pictures are moved to [0, 1].
    with torch.autocast(images.device.type, enabled=False):
        similarity = structural_similarity_index_measure(
            (reconstruction.float() + 1) / 2, (images.float() + 1) / 2, data_range=1.0, reduction="none"
        )
    assert isinstance(similarity, Tensor)
    return 1 - similarity
