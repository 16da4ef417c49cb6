"""One photo to the bytes that an archive keeps of it, and back: latents, a codec's file, or the photo's own."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_ldm.choices import Preference
from vae_ldm.data.decoding import UnreadablePictureError, decode_whole, upright_size
from vae_ldm.desk.archive.part import Entry
from vae_ldm.evaluation.codec import CodecLadder, Ladder, codecs, decode_file, picture_psnr
from vae_ldm.evaluation.reconstruction import MAX_PSNR
from vae_ldm.hardware import free_memory
from vae_ldm.latent_space.latent_coder import LatentCoder
from vae_ldm.latent_space.quantization import UnquantizableError
from vae_ldm.models.photo_errors import why_unreadable
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder

KEPT_CODECS = {"AVIF": 32_768, "WebP": 16_383}
"""Codecs that an archive keeps photos by, and the longest side in px that a file of each may have."""

_LARGE = 2**20
"""Pixels above which a photo is looked at in places before a network takes minutes over all of it."""
_PLACE, _HOPELESS_DB = 256, 3.0
_SMALL, _MARGIN_DB = 64, 2.0
"""Shorter side in px below which nothing is gained by looking at the middle of a photo first."""
_AVIF_GUESS = (17.4, 15.5, 2.0)
"""A, B and C of the quality of AVIF at which a photo likely reaches a target: A + B ln(bytes a pixel of WebP) + C dB.
Fitted to 58 photos of clothes, labels and tins at 26 to 38 dB, from which it differs by 4 (root mean square)."""
_BYTES_A_LATENT, _BYTES_A_PIXEL = 16, 40
"""The most memory that decoding takes: symbols with what their neighbours say, and a picture that is made of tiles."""
_NOISE_DB = 0.5
"""More than by what a coarser step may keep more than the finest: rounding happens to hit a reconstruction's error."""


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
            codec.name.lower(): CodecLadder(pixels, codec)
            for codec in codecs()
            if max(pixels.shape[:2]) <= KEPT_CODECS.get(codec.name, 0)
        }
        best = Encoded("file", file, MAX_PSNR)
        # The dearest last: a network needs to say of few steps what they keep where few take no more bytes.
        for name in ("webp", "avif", "latents"):
            ladder = latents if name == "latents" else ladders.get(name)
            near = self._likely_avif(best.payload, pixels) if name == "avif" and best.method == "webp" else None
            best = self._reaching(name, ladder, len(best.payload), near) or best
        return best

    def decode_latents(self, payload: bytes, height: int, width: int, channels: int) -> np.ndarray:
        """uint8 [height, width, channels] of latents' payload.

        Raises DamagedMessageError, and UnreadablePictureError where it takes more memory than is free.
        """
        check_memory(self.coder, payload, height * width)
        latents = self.coder.decode(payload, (height, width), self.autoencoder.downsample_factor)
        return reconstruction(self.autoencoder, latents, (height, width), channels)

    def _is_hopeless(self, pixels: np.ndarray) -> bool:
        """Whether a part of the photo shows that no latents of the whole reach the target, before any is coded."""
        images = as_seen_by(self.autoencoder, pixels)
        if self.prefer == "latents" or images is None:
            return False
        if pixels.shape[0] * pixels.shape[1] > _LARGE:
            # Four places come back 3 dB and more below the target.
            places = [images[place] for place in _places(*pixels.shape[:2])]
            back = [self._unquantized(place, place.shape[-1]) for place in places]
            return picture_psnr(np.concatenate(back), np.concatenate(places)) < self.target_psnr - _HOPELESS_DB
        if min(pixels.shape[:2]) < _SMALL:
            return False
        # The error of the middle alone, half of the photo, is more than the whole photo may have. A network sees the
        # middle otherwise without what is around it, hence the margin.
        middle = _middle_half(*pixels.shape[:2])
        part = pixels[middle]
        share = part.size / pixels.size
        psnr = picture_psnr(self._unquantized(images[middle], part.shape[-1]), part) - 10 * math.log10(share)
        return psnr < self.target_psnr - _MARGIN_DB

    def _unquantized(self, images: np.ndarray, channels: int) -> np.ndarray:
        """What the network gives back of uint8 [H, W, C] in its own channels: uint8 [H, W, channels]."""
        latents = self.autoencoder.encode(images)[0].float().cpu()
        return reconstruction(self.autoencoder, latents, images.shape[:2], channels)

    def _likely_avif(self, file: bytes, pixels: np.ndarray) -> int:
        """The quality of AVIF that likely reaches the target, given the file of WebP that does."""
        offset, of_bytes, of_psnr = _AVIF_GUESS
        height, width = pixels.shape[:2]
        return round(offset + of_bytes * math.log(len(file) / (height * width)) + of_psnr * self.target_psnr)

    def _reaching(
        self, method: str, ladder: Ladder | None, max_bytes: float = math.inf, near: int | None = None
    ) -> Encoded | None:
        """The photo at the target in at most `max_bytes`; None without a ladder, or where it has no such quality."""
        if ladder is None or (quality := ladder.reaching(self.target_psnr, max_bytes, near)) is None:
            return None
        return Encoded(method, ladder.file(quality), ladder.psnr(quality))


class LatentLadder(Ladder):
    """One photo at the steps of a latent coder, from coarse to fine."""

    def __init__(self, pixels: np.ndarray, latents: Tensor, autoencoder: ImageAutoencoder, coder: LatentCoder) -> None:
        super().__init__(pixels, 0, len(coder.steps) - 1)
        self.latents, self.autoencoder, self.coder = latents, autoencoder, coder

    def reaching(self, min_psnr: float, max_bytes: float = math.inf, near: int | None = None) -> int | None:
        """The same as any ladder's. The finest step is looked at first, to see whether any step will do."""
        if self.psnr(self.max_quality) < min_psnr - _NOISE_DB:
            return None
        if max_bytes < math.inf:
            finest = self.within(max_bytes)
            if self.num_bytes(finest) > max_bytes or self.psnr(finest) < min_psnr:
                return None
        return super().reaching(min_psnr, max_bytes, near)

    def _encode(self, quality: int) -> bytes:
        return self.coder.encode(self.latents, quality)

    def _decode(self, quality: int) -> np.ndarray:
        kept = self.coder.quantized(self.latents, quality)
        return reconstruction(self.autoencoder, kept, self.pixels.shape[:2], self.pixels.shape[2])


def check_memory(coder: LatentCoder, payload: bytes, num_pixels: int = 0) -> None:
    """Raise UnreadablePictureError where latents, and their picture of so many pixels, take more memory than is free.

    A few bytes may stand for a picture of 89 megapixels, whoever wrote them.
    """
    needed = _BYTES_A_LATENT * math.prod(coder.shape(payload)) + _BYTES_A_PIXEL * num_pixels
    free = free_memory()
    if needed > free:
        raise UnreadablePictureError(f"it takes {needed / 1e9:.2g} GB of memory, and {free / 1e9:.2g} GB are free")


def decode_payload(entry: Entry) -> np.ndarray:
    """uint8 [H, W, C] of an archived picture that a codec keeps, or its own file.

    Raises UnreadablePictureError, and before anything is decoded where it is no picture of the size that its row says.
    """
    if entry.method != "file" and entry.method.upper() not in {name.upper() for name in KEPT_CODECS}:
        raise UnreadablePictureError(f"it is kept by {entry.method}, which this version does not know")
    size = upright_size(entry.payload)
    if size != (entry.height, entry.width):
        raise UnreadablePictureError(
            f"it is {size[1]}x{size[0]} pixels instead of the {entry.width}x{entry.height} of its row"
        )
    if entry.method == "file":
        return decode_whole(entry.payload)
    try:
        return decode_file(entry.payload, entry.channels)
    except Exception as error:  # decoders fail in their own ways
        raise UnreadablePictureError(why_unreadable(error, entry.payload[:12])) from error


def _places(height: int, width: int) -> list[tuple[slice, slice]]:
    """Four squares, one around the middle of each quarter."""
    side = max(1, min(_PLACE, height // 2, width // 2))
    return [
        np.s_[row - side // 2 : row - side // 2 + side, column - side // 2 : column - side // 2 + side]
        for row in (height // 4, 3 * height // 4)
        for column in (width // 4, 3 * width // 4)
    ]


def _middle_half(height: int, width: int) -> tuple[slice, slice]:
    """The middle seven tenths of each side."""
    rows, columns = (slice(length * 3 // 20, length * 3 // 20 + length * 7 // 10) for length in (height, width))
    return rows, columns


def middle(pixels: np.ndarray) -> np.ndarray:
    """The middle of a photo uint8 [H, W, C], at most 1024 px a side."""
    side = math.isqrt(_LARGE)
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def latent_ladder(autoencoder: ImageAutoencoder, coder: LatentCoder, pixels: np.ndarray) -> LatentLadder | None:
    """Steps for a photo uint8 [H, W, C]; None where the model lacks its colours, or no step holds its latents."""
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
