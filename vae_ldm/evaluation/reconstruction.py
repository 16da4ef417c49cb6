"""How near reconstructions are to their originals: PSNR and SSIM, a value a picture."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Pictures are 8-bit: rounding alone costs 59 dB, so a higher figure says nothing, and an infinite one spoils the mean.
MAX_PSNR = 100.0
DATA_RANGE = 2.0


@dataclass(frozen=True, eq=False)
class ReconstructionMetrics:
    """PSNR in dB and SSIM in [-1, 1] of every picture, [N] each."""

    psnr: Tensor
    ssim: Tensor

    def worst(self, count: int) -> list[int]:
        """Indices of the pictures with the lowest PSNR, the worst first."""
        return self.psnr.argsort()[:count].tolist()


def reconstruction_metrics(originals: Tensor, reconstructions: Tensor, batch_size: int = 256) -> ReconstructionMetrics:
    """PSNR and SSIM of [N, C, H, W] against [N, C, H, W], both in [-1, 1]; what sticks out is cut, as on saving."""
    pairs = zip(originals.split(batch_size), reconstructions.clamp(-1, 1).split(batch_size), strict=True)
    psnr, ssim = zip(*((psnr_per_image(r, o), ssim_per_image(r, o)) for o, r in pairs), strict=True)
    return ReconstructionMetrics(torch.cat(psnr), torch.cat(ssim))


def psnr_per_image(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all channels, [B], at most 100: 10 log10(range^2 / mean squared error)."""
    squared = (images - originals).square().flatten(1)
    nats = 2 * torch.tensor(DATA_RANGE).log() - (squared.sum(dim=1) / squared.shape[1]).log()
    return (nats * (10 / math.log(10))).clamp(max=MAX_PSNR)


def ssim_per_image(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity, [B] (Wang 2004): Gaussian window of 11 px, narrower where the picture is."""
    # Imported here, because `claim` needs the PSNR alone, and importing torchmetrics takes half a second.
    from torchmetrics.functional.image import structural_similarity_index_measure

    side = min(images.shape[-2:])
    sigma = 1.5 if side >= 11 else side / 11
    # Its luminance term compares means that must not be negative: pictures are moved to [0, 1], as everybody does.
    ssim = structural_similarity_index_measure(
        (images + 1) / 2, (originals + 1) / 2, sigma=sigma, data_range=1.0, reduction="none"
    )
    assert isinstance(ssim, Tensor)
    return ssim.reshape(-1)
