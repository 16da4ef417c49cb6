"""Photos to latents and back in plain calls, for people who want no more than that."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from vae_ldm.errors import VaeLdmError
from vae_ldm.models.autoencoder import downsample_factor
from vae_ldm.models.image_input import Images, as_image_batch
from vae_ldm.models.latent_scaling import latent_scale
from vae_ldm.models.tiling import tiled

OUTPUT_TYPES = ("pil", "np", "pt")


class ImageAutoencoder:
    """An AutoencoderKL that takes and gives images of any size, grey or colour.

    >>> import numpy as np, vae_ldm
    >>> autoencoder = vae_ldm.load_autoencoder("runs/claims-32")
    >>> photo = np.zeros((30, 45, 3), np.uint8)
    >>> latents = autoencoder.encode(photo)
    >>> latents.shape
    torch.Size([1, 8, 8, 12])
    >>> autoencoder.decode(latents, size=(30, 45))[0].size  # Pillow says width first
    (45, 30)

    Latents are as a UNet sees them: of about unit variance, whatever factors, shifts or statistics the config holds.
    A side above `tile_size` px is worked through in tiles of that size, which overlap by a quarter and fade into each
    other; None: always whole. On the autoencoder's device and in its precision.
    """

    def __init__(self, autoencoder: AutoencoderKL, *, tile_size: int | None = 512) -> None:
        self.autoencoder = autoencoder
        self.downsample_factor = downsample_factor(autoencoder)
        """Pixels a side for one latent position."""
        self.channels: int = autoencoder.config.in_channels
        """Channels of the images: 1 grey, 3 RGB, 4 RGBA."""
        self.latent_channels: int = autoencoder.config.latent_channels
        if tile_size is not None and tile_size < 8 * self.downsample_factor:
            raise VaeLdmError(f"tile_size {tile_size} is less than {8 * self.downsample_factor}, 8 latent positions")
        self.tile_size = tile_size
        self._processor = VaeImageProcessor(vae_scale_factor=self.downsample_factor)

    @torch.no_grad()
    def encode(self, images: Images, *, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Latents, float [B, latent_channels, ceil(H / f), ceil(W / f)], with about zero mean and unit variance.

        Images are paths of photos, Pillow images, arrays [H, W], [H, W, C] or [B, H, W, C], tensors [C, H, W] or
        [B, C, H, W]; integers of 8 or 16 bits or floats in [0, 1]; several in a list are of one size. Sides that f does
        not divide are continued by their last row and column. The posterior's mean is taken; with a generator (or one
        an image) its sample.

        Raises DataError for images that are none of these.
        """
        return self.encode_batch(as_image_batch(images, channels=self.channels), generator=generator)

    @torch.no_grad()
    def encode_batch(
        self, batch: Tensor, *, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Tensor:
        """`encode` of images [B, channels, H, W] in [-1, 1]."""
        posterior = self.posterior(batch)
        latents = posterior.mean
        if generator is not None:
            latents = latents + posterior.std * randn_tensor(latents.shape, generator, latents.device, latents.dtype)
        return latent_scale(self.autoencoder).normalize(latents)

    @torch.no_grad()
    def posterior(self, batch: Tensor) -> DiagonalGaussianDistribution:
        """The posterior [B, c, ceil(H / f), ceil(W / f)] of images [B, channels, H, W] in [-1, 1].

        It is scaled as the network gives it, not as a UNet sees it.
        """
        down, right = (-side % self.downsample_factor for side in batch.shape[-2:])
        batch = F.pad(batch, (0, right, 0, down), mode="replicate").to(self._parameter)
        return DiagonalGaussianDistribution(self._in_tiles(self._parameters, batch, in_step=self.downsample_factor))

    @torch.no_grad()
    def decode_raw(self, latents: Tensor) -> Tensor:
        """Images [B, channels, h * f, w * f], about in [-1, 1], of latents that are scaled as those of `posterior`."""
        return self._in_tiles(self._decoded, latents, out_step=self.downsample_factor)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, size: tuple[int, int] | None = None, output_type: str = "pil") -> Any:
        """Images of latents [B, latent_channels, h, w]: a list of Pillow images, or floats in [0, 1].

        `output_type` is "pil", "np" for an array [B, H, W, C] or "pt" for a tensor [B, C, H, W]. `size` (height, width)
        cuts off what `encode` had to add; without it sides are h * f and w * f.

        Raises VaeLdmError for latents of another shape, a larger size or an unknown output type.
        """
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise VaeLdmError(f"latents have the shape [B, {self.latent_channels}, h, w], not {list(latents.shape)}")
        if output_type not in OUTPUT_TYPES:
            raise VaeLdmError(f"output_type {output_type} is unknown: {', '.join(OUTPUT_TYPES)}")
        height, width = size or (side * self.downsample_factor for side in latents.shape[-2:])
        if height > latents.shape[2] * self.downsample_factor or width > latents.shape[3] * self.downsample_factor:
            raise VaeLdmError(f"size {height}x{width} is larger than what latents {list(latents.shape)} hold")
        raw = latent_scale(self.autoencoder).denormalize(latents.to(self._parameter))
        return self._processor.postprocess(self.decode_raw(raw)[..., :height, :width].float(), output_type=output_type)

    def reconstruct(self, images: Images, *, output_type: str = "pil") -> Any:
        """The images after `encode` and `decode`, of their own size; errors are those of the two."""
        batch = as_image_batch(images, channels=self.channels)
        return self.decode(self.encode_batch(batch), size=(batch.shape[2], batch.shape[3]), output_type=output_type)

    @property
    def _parameter(self) -> Tensor:
        """A parameter, whose device and precision are the autoencoder's; its own properties look at every module."""
        return next(self.autoencoder.parameters())

    def _parameters(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images).latent_dist.parameters

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents).sample

    def _in_tiles(
        self, function: Callable[[Tensor], Tensor], inputs: Tensor, *, in_step: int = 1, out_step: int = 1
    ) -> Tensor:
        longest = max(inputs.shape[-2:]) // in_step * self.downsample_factor
        if self.tile_size is None or longest <= self.tile_size:
            return function(inputs)
        tile = self.tile_size // self.downsample_factor
        return tiled(function, inputs, tile=tile, overlap=tile // 4, in_step=in_step, out_step=out_step)
