"""Several autoencoders on the same photos, with picture codecs at the bytes of their latents beside them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_ldm.evaluation.codec import Codec, compress_to
from vae_ldm.evaluation.distribution import MIN_IMAGES
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.interval import Interval, bootstrap_interval
from vae_ldm.evaluation.latent_bytes import eight_bit_bytes, rounded_to_eight_bits
from vae_ldm.evaluation.linear_floor import LinearCode
from vae_ldm.evaluation.reconstruction import psnr_per_image, reconstruction_metrics
from vae_ldm.evaluation.set_comparison import FrechetAxes
from vae_ldm.models.pixels import as_images, as_pictures, image_batches
from vae_ldm.models.vision_features import VisionFeatures
from vae_ldm.text import counted

MIN_PHOTOS = 6
"""The fewest photos that a 95 % interval is given for: fewer lie all on one side of the truth in over 5 % of cases."""


class Candidate(NamedTuple):
    """An autoencoder in plain calls: images [B, C, H, W] in [-1, 1] to latents as a UNet sees them, and back."""

    name: str
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    downsample_factor: int


@dataclass(frozen=True, eq=False)
class Quality:
    """How near pictures stay to their originals, and at how many bytes."""

    name: str
    num_bytes: float
    """Mean bytes of a picture, as a codec's file or as latents at 8 bits a number."""
    psnr: Tensor
    """dB, [N]."""
    ssim: Tensor
    """[N]."""
    perceptual: Tensor
    """Distance of features, [N], 0 is equal."""
    fd: float | None
    """Fréchet distance to the originals; None for fewer pictures than it can be taken of."""
    pictures: np.ndarray
    """uint8 [N, H, W, C]."""

    @property
    def psnr_interval(self) -> Interval | None:
        """95 % interval of the mean PSNR; None for fewer than MIN_PHOTOS photos, which cannot tell their own spread."""
        return bootstrap_interval(self.psnr) if len(self.psnr) >= MIN_PHOTOS else None


@dataclass(frozen=True, eq=False)
class CodecResult(Quality):
    """What a codec makes of the photos at the bytes of an autoencoder's latents."""

    share_that_fits: float
    """The share of pictures whose file fits into the bytes at some quality, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class AutoencoderResult(Quality):
    """One autoencoder on the photos."""

    latent_shape: tuple[int, int, int]
    """c, h, w of one picture."""
    psnr_in_bytes: Tensor
    """dB after rounding the latents to 8 bits, [N]."""
    encode_seconds: float
    decode_seconds: float
    """A picture, in batches."""
    channel_mean: list[float]
    channel_std: list[float]
    """Mean and standard deviation of the latents as a UNet sees them; ideally 0 and 1."""
    linear_psnr: float
    """dB of the best linear code of the same shape, fitted on these photos."""
    codecs: list[CodecResult]


class Judge:
    """Originals and all that is computed from them once."""

    def __init__(
        self,
        images: np.ndarray,
        *,
        features: VisionFeatures,
        perceptual: Callable[[Tensor, Tensor], Tensor],
        batch_size: int = 8,
    ) -> None:
        self.images, self.features, self.perceptual, self.batch_size = images, features, perceptual, batch_size
        self.embeddings = embed_pictures(features, images, batch_size)
        self.axes = FrechetAxes(features, self.embeddings, len(images)) if len(images) >= MIN_IMAGES else None
        self._codecs: dict[tuple[str, int], CodecResult] = {}

    @torch.no_grad()
    def measure(self, pictures: np.ndarray) -> dict[str, Any]:
        """The fields of Quality for `pictures` uint8 [N, H, W, C], less name and bytes."""
        scores, distances = [], []
        pairs = zip(image_batches(self.images, self.batch_size), image_batches(pictures, self.batch_size), strict=True)
        for originals, others in pairs:
            scores.append(reconstruction_metrics(originals, others))
            distances.append(self.perceptual(others, originals).float().cpu())
        fd = None
        if self.axes is not None:
            fd = self.axes.distance(self.embeddings, embed_pictures(self.features, pictures, self.batch_size))
        return {
            "psnr": torch.cat([score.psnr for score in scores]),
            "ssim": torch.cat([score.ssim for score in scores]),
            "perceptual": torch.cat(distances),
            "fd": fd,
            "pictures": pictures,
        }

    @torch.no_grad()
    def autoencoder(
        self,
        candidate: Candidate,
        codecs: Sequence[Codec],
        progress: Callable[[int, int], None] | None = None,
    ) -> AutoencoderResult:
        """Everything about one candidate; each codec at the bytes of its latents.

        `progress(done, total)` counts pictures: of each photo one by the autoencoder and one by each codec.
        """
        total = len(self.images) * (1 + len(codecs))
        latents, made, rounded_psnr = [], [], []
        seconds = {"encode": 0.0, "decode": 0.0}

        def timed(what: str, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
            start = time.perf_counter()
            outputs = function(inputs).float().cpu()  # which waits for a GPU
            seconds[what] += time.perf_counter() - start
            return outputs

        first = as_images(self.images[: self.batch_size])
        candidate.decode(candidate.encode(first))  # the first call of a network is slower than the others
        for originals in image_batches(self.images, self.batch_size):
            code = timed("encode", candidate.encode, originals)
            made.append(as_pictures(timed("decode", candidate.decode, code)))
            rounded = candidate.decode(rounded_to_eight_bits(code)).float().cpu().clamp(-1, 1)
            rounded_psnr.append(psnr_per_image(rounded, originals))
            latents.append(code)
            if progress is not None:
                progress(sum(map(len, latents)), total)
        code = torch.cat(latents)
        shape = (code.shape[1], code.shape[2], code.shape[3])
        num_bytes = eight_bit_bytes(shape)
        compressed = []
        for number, codec in enumerate(codecs, start=2):
            compressed.append(self.codec(codec, num_bytes))
            if progress is not None:
                progress(number * len(self.images), total)
        return AutoencoderResult(
            **self.measure(np.concatenate(made)),
            name=candidate.name,
            latent_shape=shape,
            num_bytes=num_bytes,
            psnr_in_bytes=torch.cat(rounded_psnr),
            encode_seconds=seconds["encode"] / len(self.images),
            decode_seconds=seconds["decode"] / len(self.images),
            channel_mean=code.mean(dim=(0, 2, 3)).tolist(),
            channel_std=code.std(dim=(0, 2, 3)).tolist(),
            linear_psnr=self._linear_psnr(candidate.downsample_factor, shape[0]),
            codecs=compressed,
        )

    def codec(self, codec: Codec, num_bytes: int) -> CodecResult:
        """The codec at this many bytes a picture; remembered, since autoencoders of one shape ask for the same."""
        key = (codec.name, num_bytes)
        if key not in self._codecs:
            compressed = [compress_to(pixels, codec, num_bytes) for pixels in self.images]
            sizes = np.array([one.num_bytes for one in compressed])
            self._codecs[key] = CodecResult(
                **self.measure(np.stack([one.pixels for one in compressed])),
                name=codec.name,
                num_bytes=float(sizes.mean()),
                share_that_fits=float((sizes <= num_bytes).mean()),
            )
        return self._codecs[key]

    def _linear_psnr(self, downsample_factor: int, latent_channels: int) -> float:
        code = LinearCode.fit(
            as_images(self.images), downsample_factor=downsample_factor, latent_channels=latent_channels
        )
        scores = [
            reconstruction_metrics(originals, code.reconstruct(originals)).psnr
            for originals in image_batches(self.images, self.batch_size)
        ]
        return torch.cat(scores).mean().item()


def in_sentences(results: Sequence[AutoencoderResult]) -> str:
    """What the numbers say: which autoencoder keeps most, whether to train, and what the bytes are worth."""
    ranked = sorted(results, key=lambda result: result.psnr.mean().item(), reverse=True)
    best = ranked[0]
    psnr = best.psnr.mean().item()
    where = f"On {counted(len(best.psnr), 'photo')} of {best.pictures.shape[1]} px"
    if len(ranked) == 1:
        said = [f"{where}, {best.name} reaches {psnr:.1f} dB"]
    else:
        second = ranked[1]
        lead = psnr - second.psnr.mean().item()
        said = [
            f"{where}, {best.name} reconstructs best: it reaches {psnr:.1f} dB, {lead:.1f} dB above {second.name}"
            + _doubt(best.psnr - second.psnr)
        ]
        nearest = min(results, key=lambda result: result.perceptual.mean().item())
        if nearest is not best:
            said.append(f"Judged by features, {nearest.name} comes nearest to the photos")
    said.append(_advice(psnr, best.linear_psnr))
    keeping = [codec for codec in best.codecs if codec.share_that_fits == 1]
    if keeping:
        codec = max(keeping, key=lambda result: result.psnr.mean().item())
        difference = codec.psnr.mean().item() - best.psnr_in_bytes.mean().item()
        worth = f"{abs(difference):.1f} dB {'more' if difference > 0 else 'less'}"
        # Where its best quality takes no more, a codec leaves some of the bytes.
        some = f"{codec.num_bytes:,.0f} of " if codec.num_bytes < 0.9 * best.num_bytes else ""
        said.append(f"In {some}the {best.num_bytes:,.0f} bytes of its latents, {codec.name} reaches {worth}")
    elif best.codecs:
        said.append(f"No codec gets all photos into the {best.num_bytes:,.0f} bytes of its latents")
    return ". ".join(said) + "."


def _doubt(lead: Tensor) -> str:
    """What is to be said behind a lead in dB, [N], that chance may have made."""
    interval = bootstrap_interval(lead) if len(lead) >= MIN_PHOTOS else None
    if interval is None:
        return "; these are too few photos to tell that from chance"
    return ", which may be chance" if interval.low <= 0 else ""


def _advice(psnr: float, linear_psnr: float) -> str:
    if psnr <= linear_psnr:
        return f"A linear code of its size reaches {linear_psnr:.1f} dB, so train an autoencoder on these photos"
    margin = f"{psnr - linear_psnr:.1f} dB above a linear code of its size"
    if psnr - linear_psnr < 2:
        return f"That is only {margin}, so fine-tune its decoder on these photos, or train an autoencoder"
    return f"That is {margin}, so use it as it is, and fine-tune its decoder where the worst crops are too poor"
