"""Everything that is measured of a trained autoencoder and of generated pictures, each number with its context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vae_ldm.evaluation.distribution import MIN_IMAGES
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.linear_floor import LinearCode
from vae_ldm.evaluation.measurement import Measurement, measured_mean, measured_share
from vae_ldm.evaluation.memorisation import copies, nearest_in_features, nearest_in_pixels, too_near
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.evaluation.reconstruction import reconstruction_metrics
from vae_ldm.evaluation.set_comparison import FrechetAxes, compare_sets
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.models.vision_features import VisionFeatures

# 200 MB of float32: enough pictures for a linear code of at most 768 inputs.
MAX_LINEAR_CODE_VALUES = 50_000_000


class LabelledPictures(Protocol):
    """One split, as `vae_ldm.data.pictures.Pictures`: uint8 [N, H, W, C], labels [N] with -1 for no class."""

    @property
    def images(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class AutoencoderEvaluation:
    """What was measured, and what is worth showing."""

    measurements: list[Measurement]
    reconstructions: np.ndarray
    """Of all validation pictures, uint8 [N, H, W, C]."""
    psnr: np.ndarray
    """dB, [N]."""
    worst: list[int]
    """Validation pictures in order of PSNR, the worst first."""


@dataclass(frozen=True, eq=False)
class SampleEvaluation:
    """What was measured, and what is worth showing."""

    measurements: list[Measurement]
    nearest: np.ndarray
    """For each sample its nearest training picture by features, [N]."""
    nearest_in_pixels: np.ndarray
    """The same by pixels, [N]."""
    closest: list[int]
    """Samples in order of their distance to the nearest training picture by features: copies come first."""
    agrees: np.ndarray | None
    """Whether the probe sees what was asked for, booleans [N]."""


def evaluate_autoencoder(
    encode_decode: Callable[[Tensor], Tensor],
    train: LabelledPictures,
    validation: LabelledPictures,
    *,
    features: VisionFeatures,
    downsample_factor: int,
    latent_channels: int,
    probe: ProbeClassifier | None = None,
    batch_size: int = 64,
    train_embeddings: Tensor | None = None,
) -> AutoencoderEvaluation:
    """Reconstructions of all validation pictures, measured beside their floors and ceilings.

    `encode_decode` maps images [B, C, H, W] in [-1, 1] on the CPU to reconstructions of the same shape.
    `train_embeddings`, as `embed_pictures` gives them, save embedding the training pictures again.
    """
    assert len(validation.images), "an autoencoder is judged on validation pictures"
    code = LinearCode.fit(
        as_images(evenly_chosen(train.images, MAX_LINEAR_CODE_VALUES)),
        downsample_factor=downsample_factor,
        latent_channels=latent_channels,
    )
    scores, floors, at_rest = [], [], []

    def both(pictures: np.ndarray) -> tuple[Tensor, Tensor]:
        originals = as_images(pictures)
        return originals, encode_decode(originals).float().cpu()

    at_once = batch_size_for(validation.images.shape[1:3], most=batch_size)
    with torch.no_grad():
        for originals, reconstructions in in_batches(both, validation.images, at_once):
            scores.append(reconstruction_metrics(originals, reconstructions))
            floors.append(reconstruction_metrics(originals, code.reconstruct(originals)))
            at_rest.append(as_pictures(reconstructions))
    reconstructed = np.concatenate(at_rest)
    psnr = torch.cat([score.psnr for score in scores])
    ssim = torch.cat([score.ssim for score in scores])
    psnr_floor = torch.cat([floor.psnr for floor in floors]).mean().item()
    ssim_floor = torch.cat([floor.ssim for floor in floors]).mean().item()
    floor_name = f"PCA floor (f{downsample_factor}c{latent_channels})"
    measurements = [
        measured_mean("psnr", psnr, unit="dB", reference=psnr_floor, reference_name=floor_name),
        measured_mean("ssim", ssim, unit="", reference=ssim_floor, reference_name=floor_name),
    ]

    if min(len(train.images), len(validation.images)) >= MIN_IMAGES:
        seen = embed_pictures(features, train.images, batch_size) if train_embeddings is None else train_embeddings
        held_out = embed_pictures(features, validation.images, batch_size)
        made = embed_pictures(features, reconstructed, batch_size)
        axes = FrechetAxes(features, seen, num_images=min(len(seen), len(held_out)))
        measurements.append(
            axes.measurement(
                held_out,
                made,
                split="validation",
                stage="autoencoder",
                reference=axes.distance(seen, held_out),
                reference_name="training against validation pictures",
            )
        )

    labels = torch.from_numpy(np.asarray(validation.labels)).long()
    if probe is not None and bool((labels >= 0).any()):
        with_class = np.flatnonzero(labels >= 0)
        kept = probe.agrees(as_images(reconstructed[with_class]), labels[with_class])
        measurements.append(
            measured_share(
                "reconstruction_agreement",
                kept,
                split="validation",
                stage="autoencoder",
                better="higher",
                features=f"{features.name} probe",
                reference=100 * probe.agreement(as_images(validation.images[with_class]), labels[with_class]),
                reference_name="ceiling on the originals",
            )
        )
    return AutoencoderEvaluation(measurements, reconstructed, psnr.numpy(), psnr.argsort().tolist())


def evaluate_samples(
    samples: np.ndarray,
    sample_labels: Sequence[int] | np.ndarray | None,
    train: LabelledPictures,
    validation: LabelledPictures,
    *,
    features: VisionFeatures,
    probe: ProbeClassifier | None = None,
    agreement_ceiling: float | None = None,
    batch_size: int = 64,
    train_embeddings: Tensor | None = None,
    seed: int = 0,
) -> SampleEvaluation:
    """Generated pictures uint8 [N, H, W, C] against training pictures, beside what held-out real pictures reach.

    `sample_labels`: the class each sample was asked to show; None where there were no classes. `agreement_ceiling`:
    the value, in percent, of "reconstruction_agreement". `train_embeddings` as in `evaluate_autoencoder`.
    """
    seen = embed_pictures(features, train.images, batch_size) if train_embeddings is None else train_embeddings
    held_out = embed_pictures(features, validation.images, batch_size)
    made = embed_pictures(features, samples, batch_size)
    near, near_in_pixels = nearest_in_features(made, seen), nearest_in_pixels(samples, train.images)
    measurements: list[Measurement] = []

    agrees = None
    if probe is not None and sample_labels is not None:
        agrees = probe.agrees(as_images(samples), torch.from_numpy(np.asarray(sample_labels)).long())
        measurements.append(
            measured_share(
                "prompt_agreement",
                agrees,
                split="generated",
                stage="diffusion",
                better="higher",
                features=f"{features.name} probe",
                reference=agreement_ceiling,
                reference_name="ceiling on reconstructions",
            )
        )

    if min(len(seen), len(made)) >= MIN_IMAGES:
        measurements += compare_sets(features, seen, held_out if len(held_out) >= MIN_IMAGES else None, made, seed)

    if len(held_out) >= MIN_IMAGES:
        held_out_near = nearest_in_features(held_out, seen)
        measurements.append(
            measured_share(
                f"memorised_{features.name}",
                too_near(near, held_out_near),
                split="generated",
                stage="diffusion",
                better="lower",
                features=features.name,
                reference=100 * too_near(held_out_near, held_out_near).float().mean().item(),
                reference_name="validation pictures",
            )
        )
    held_out_in_pixels = nearest_in_pixels(validation.images, train.images) if len(held_out) else None
    measurements.append(
        measured_share(
            "copies_in_pixels",
            copies(near_in_pixels),
            split="generated",
            stage="diffusion",
            better="lower",
            reference=None if held_out_in_pixels is None else 100 * copies(held_out_in_pixels).float().mean().item(),
            reference_name="validation pictures",
        )
    )
    return SampleEvaluation(
        measurements,
        near.indices.numpy(),
        near_in_pixels.indices.numpy(),
        near.distances.argsort().tolist(),
        None if agrees is None else agrees.numpy(),
    )


def evenly_chosen(pictures: np.ndarray, max_values: int) -> np.ndarray:
    """As many of the pictures, evenly over the set, as hold `max_values` numbers."""
    count = max(min(len(pictures), max_values // pictures[0].size), 1)
    return pictures[np.linspace(0, len(pictures) - 1, count).astype(int)]
