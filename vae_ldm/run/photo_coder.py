"""One photo to the bytes that an archive keeps of it, and back: latents, a codec's file, or the photo's own."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_ldm.evaluation.codec import CodecLadder, Compressed, Ladder, codecs, picture_psnr
from vae_ldm.evaluation.reconstruction import MAX_PSNR
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.latent_space.quantization import UnquantizableError
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder

Preference = Literal["smallest", "latents"]
PREFERENCES: tuple[Preference, ...] = get_args(Preference)
KEPT_CODECS = ("AVIF", "WebP")


class Encoded(NamedTuple):
    """What an archive keeps of a photo."""

    method: str
    """`latents`, `avif`, `webp` or `file`."""
    payload: bytes
    psnr: float
    """dB of what it decodes to."""


class PhotoCoder:
    """Photos uint8 [H, W, C] of any size and C to payloads and back, by one autoencoder and one latent coder.

    One photo at a time: in a batch the last bits of a network's sums may differ, and with them which step reaches
    the target.
    """

    def __init__(
        self,
        autoencoder: ImageAutoencoder,
        coder: LatentCoder,
        *,
        target_psnr: float,
        prefer: Preference = "smallest",
    ) -> None:
        self.autoencoder, self.coder = autoencoder, coder
        self.target_psnr, self.prefer = target_psnr, prefer

    def encode(self, pixels: np.ndarray, file: bytes) -> Encoded:
        """The smallest of all that reaches the target; with `prefer` latents these wherever they do.

        `file` is the photo's own file, which always reaches it: nothing grows, and nothing is made worse.
        """
        found: list[Encoded] = []
        for name, ladder in self._ladders(pixels):
            made = ladder.reaching(self.target_psnr)
            if made is not None:
                found.append(Encoded(name, made.file, picture_psnr(made.pixels, pixels)))
                if name == "latents" and self.prefer == "latents":
                    return found[0]
        found.append(Encoded("file", file, MAX_PSNR))
        return min(found, key=lambda one: len(one.payload))

    def decode_latents(self, payload: bytes, height: int, width: int, channels: int) -> np.ndarray:
        """uint8 [height, width, channels] of latents' payload. Raises DamagedMessageError."""
        return reconstruction(self.autoencoder, self.coder.decode(payload), (height, width), channels)

    def _ladders(self, pixels: np.ndarray) -> Iterator[tuple[str, Ladder]]:
        """Latents first, where the model has the photo's colours and these latents can be coded."""
        latents = latent_ladder(self.autoencoder, self.coder, pixels)
        if latents is not None:
            yield "latents", latents
        for codec in codecs():
            if codec.name in KEPT_CODECS:
                yield codec.name.lower(), CodecLadder(pixels, codec)


class LatentLadder(Ladder):
    """One photo at the steps of a latent coder, from coarse to fine."""

    def __init__(self, pixels: np.ndarray, latents: Tensor, autoencoder: ImageAutoencoder, coder: LatentCoder) -> None:
        super().__init__(pixels, 0, len(coder.steps) - 1)
        self.latents, self.autoencoder, self.coder = latents, autoencoder, coder

    def _make(self, quality: int) -> Compressed:
        kept = self.coder.quantized(self.latents, quality)
        pixels = reconstruction(self.autoencoder, kept, self.pixels.shape[:2], self.pixels.shape[2])
        return Compressed(pixels, self.coder.encode(self.latents, quality))


def latent_ladder(autoencoder: ImageAutoencoder, coder: LatentCoder, pixels: np.ndarray) -> LatentLadder | None:
    """Of a photo uint8 [H, W, C]; None where the model has not its colours, or makes latents that no step can hold."""
    images = as_seen_by(autoencoder, pixels)
    if images is None:
        return None
    latents = autoencoder.encode(images)[0].float().cpu()
    try:
        coder.quantized(latents, len(coder.steps) - 1)
    except UnquantizableError:
        return None
    return LatentLadder(pixels, latents, autoencoder, coder)


def as_seen_by(autoencoder: ImageAutoencoder, pixels: np.ndarray) -> np.ndarray | None:
    """The photo uint8 [H, W, C] with the model's channels, or None where that would lose colour or transparency."""
    channels = pixels.shape[-1]
    if channels == autoencoder.channels:
        return pixels
    if channels == 4 and (pixels[..., 3] != 255).any():
        return None
    colors = pixels[..., :3]
    if autoencoder.channels == 1:
        return colors[..., :1] if channels != 1 and (colors == colors[..., :1]).all() else None
    if channels == 1:
        colors = np.repeat(colors, 3, axis=-1)
    if autoencoder.channels == 4:
        colors = np.concatenate([colors, np.full_like(colors[..., :1], 255)], axis=-1)
    return colors


@torch.no_grad()
def reconstruction(autoencoder: ImageAutoencoder, latents: Tensor, size: Sequence[int], channels: int) -> np.ndarray:
    """uint8 [height, width, channels] of latents [c, h, w], whatever channels the model has."""
    height, width = size
    made = autoencoder.decode(latents[None], size=(height, width), output_type="pt")[0]
    pixels = made.mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if channels == pixels.shape[-1]:
        return pixels
    if pixels.shape[-1] == 4:  # asked for again as it was: opaque
        pixels = pixels[..., :3]
    if channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if channels == 4:
        pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    return pixels
