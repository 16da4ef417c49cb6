"""What novelty looks at in photos: features, places, and what the autoencoder does not give back."""

import os
import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from vae_ldm.data.photo_stream import PhotoBatch
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.desk.novelty.backbone_features import as_grid, middle_stages
from vae_ldm.latent_space.features import FeaturePart, parts_of, pool_latents
from vae_ldm.latent_space.novelty import Observations
from vae_ldm.latent_space.patch_memory import local_patches
from vae_ldm.losses.kl import kl_divergence
from vae_ldm.models.latent_scaling import latent_scale
from vae_ldm.models.pixels import as_images
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder

THUMBNAIL_SIDE = 32
"""The shorter side in px at which photos are compared by their pixels."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Observations of a batch, what its heat maps are made of, and what the autoencoder has made of it."""

    observations: Observations
    latents: Tensor
    """Posterior means of zero mean and unit variance, [B, c, h, w], where the networks are."""
    reconstruction: Tensor
    """What the autoencoder gives back, [B, C, H, W], about in [-1, 1], where the networks are."""
    patch_grid: tuple[int, int]
    """Height and width that the P patches of a photo lie in, row by row."""
    residual: Tensor
    """How far the reconstruction is off at each pixel, root mean square over channels: [B, H, W], in [0, 2]."""


class PhotoObserver:
    """Batches of a PhotoEncoder, each photo looked at once by the autoencoder and once by the backbone."""

    def __init__(self, encoder: PhotoEncoder, *, whole: bool = False) -> None:
        """`whole` looks at photos in one piece where `encoder` works in tiles, as detectors up to format 3 did."""
        self.encoder = encoder
        network = encoder.autoencoder.autoencoder
        self._autoencoder = ImageAutoencoder(network, tile_size=None) if whole else encoder.autoencoder
        height, width = encoder.image_size
        self.num_pixels = height * width * encoder.channels

    @torch.no_grad()
    def __call__(self, batch: PhotoBatch) -> Seen:
        """All of what can be seen in the photos, on the CPU."""
        device = self.encoder.device
        images = as_images(batch.images[0]).to(device)
        height, width = images.shape[-2:]
        raw = self._autoencoder.posterior(images)
        decoded = self._autoencoder.decode_raw(raw.mean)[..., :height, :width]
        scale = latent_scale(self._autoencoder.autoencoder)
        latents = scale.normalize(raw.mean)
        # The unit Gaussian is that of the latents as a UNet sees them, whatever factor the config holds.
        logvar = raw.logvar - 2 * scale.std.to(raw.logvar).log()
        posterior = DiagonalGaussianDistribution(torch.cat([latents, logvar], dim=1))
        squared = (decoded - images).square().mean(dim=1)

        vectors: dict[FeaturePart, Tensor] = {}
        if "latents" in parts_of(self.encoder.kind):
            vectors["latents"] = pool_latents(latents.float()).cpu()
        if self.encoder.backbone is None:
            patches = local_patches([latents])
        else:
            stages, embedding = self.encoder.backbone.stages_and_embedding(as_images(batch.images[-1]).to(device))
            vectors["backbone"] = embedding.float().cpu()
            patches = local_patches([as_grid(stage) for stage in middle_stages(stages)])
        observations = Observations(
            vectors,
            patches.flatten(2).transpose(1, 2).float().cpu(),
            _small(images).flatten(1).cpu(),
            squared.mean(dim=(1, 2)).cpu(),
            kl_divergence(posterior).cpu(),
        )
        return Seen(observations, latents, decoded, (patches.shape[2], patches.shape[3]), squared.sqrt().cpu())


def some_patches(batch: PhotoBatch, patches: Tensor, count: int) -> Tensor:
    """`count` patches of each photo [B, count, C], drawn by its id, so that they do not depend on the batch."""
    if count >= patches.shape[1]:
        return patches
    rows = []
    for record in batch.records:
        generator = torch.Generator().manual_seed(zlib.crc32(os.fsencode(record.id)))
        rows.append(torch.randperm(patches.shape[1], generator=generator)[:count])
    return patches[torch.arange(len(rows))[:, None], torch.stack(rows)]


def _small(images: Tensor) -> Tensor:
    """Copies [B, C, h, w] of images, shrunk to a shorter side of THUMBNAIL_SIDE where theirs is longer."""
    height, width = images.shape[-2:]
    scale = min(1.0, THUMBNAIL_SIDE / min(height, width))
    return F.interpolate(images, (round(height * scale), round(width * scale)), mode="area")
