"""One photo to the bytes that an archive keeps of it, and back: latents, a codec's file, or the photo's own."""

import math
from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_ldm.choices import Preference
from vae_ldm.evaluation.codec import CodecLadder, Ladder, codecs, picture_psnr
from vae_ldm.evaluation.reconstruction import MAX_PSNR
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.latent_space.quantization import UnquantizableError
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder

PREFERENCES: tuple[Preference, ...] = get_args(Preference)
KEPT_CODECS = ("AVIF", "WebP")

_LARGE = 2**20
"""Pixels above which a photo is looked at in places before a network takes minutes over all of it."""
_PLACE, _HOPELESS_DB = 256, 3.0


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
        latents = None if self._is_hopeless(pixels) else latent_ladder(self.autoencoder, self.coder, pixels)
        if self.prefer == "latents" and (encoded := self._reaching("latents", latents)) is not None:
            return encoded
        ladders: dict[str, Ladder | None] = {
            codec.name.lower(): CodecLadder(pixels, codec) for codec in codecs() if codec.name in KEPT_CODECS
        }
        best = Encoded("file", file, MAX_PSNR)
        # The dearest last: a network needs to say of few steps what they keep where few take no more bytes.
        for name in ("webp", "avif", "latents"):
            ladder = latents if name == "latents" else ladders.get(name)
            best = self._reaching(name, ladder, len(best.payload)) or best
        return best

    def decode_latents(self, payload: bytes, height: int, width: int, channels: int) -> np.ndarray:
        """uint8 [height, width, channels] of latents' payload. Raises DamagedMessageError."""
        return reconstruction(self.autoencoder, self.coder.decode(payload), (height, width), channels)

    def _is_hopeless(self, pixels: np.ndarray) -> bool:
        """Whether four places of a large photo come back 3 dB and more below the target, before any quantisation."""
        images = as_seen_by(self.autoencoder, pixels)
        if self.prefer == "latents" or pixels.shape[0] * pixels.shape[1] <= _LARGE or images is None:
            return False
        places = [images[place] for place in _places(*pixels.shape[:2])]
        channels = images.shape[-1]
        back = [
            reconstruction(self.autoencoder, self.autoencoder.encode(one)[0].float().cpu(), one.shape[:2], channels)
            for one in places
        ]
        return picture_psnr(np.concatenate(back), np.concatenate(places)) < self.target_psnr - _HOPELESS_DB

    def _reaching(self, method: str, ladder: Ladder | None, max_bytes: float = math.inf) -> Encoded | None:
        """The photo at the target in at most `max_bytes`; None where the ladder is none or has no such quality."""
        if ladder is None or (quality := ladder.reaching(self.target_psnr, max_bytes)) is None:
            return None
        return Encoded(method, ladder.file(quality), ladder.psnr(quality))


class LatentLadder(Ladder):
    """One photo at the steps of a latent coder, from coarse to fine."""

    def __init__(self, pixels: np.ndarray, latents: Tensor, autoencoder: ImageAutoencoder, coder: LatentCoder) -> None:
        super().__init__(pixels, 0, len(coder.steps) - 1)
        self.latents, self.autoencoder, self.coder = latents, autoencoder, coder

    def reaching(self, min_psnr: float, max_bytes: float = math.inf) -> int | None:
        """As of any ladder; where bytes are limited, the coder alone rules out what takes more."""
        if max_bytes < math.inf:
            finest = self.within(max_bytes)
            if self.num_bytes(finest) > max_bytes or self.psnr(finest) < min_psnr:
                return None
        return super().reaching(min_psnr, max_bytes)

    def _encode(self, quality: int) -> bytes:
        return self.coder.encode(self.latents, quality)

    def _decode(self, quality: int) -> np.ndarray:
        kept = self.coder.quantized(self.latents, quality)
        return reconstruction(self.autoencoder, kept, self.pixels.shape[:2], self.pixels.shape[2])


def _places(height: int, width: int) -> list[tuple[slice, slice]]:
    """Four squares, one around the middle of each quarter."""
    side = max(1, min(_PLACE, height // 2, width // 2))
    return [
        np.s_[row - side // 2 : row - side // 2 + side, column - side // 2 : column - side // 2 + side]
        for row in (height // 4, 3 * height // 4)
        for column in (width // 4, 3 * width // 4)
    ]


def middle(pixels: np.ndarray) -> np.ndarray:
    """Of a photo uint8 [H, W, C], at most 1024 px a side."""
    side = math.isqrt(_LARGE)
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


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
