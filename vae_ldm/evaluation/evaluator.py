"""Everything that is measured of a trained autoencoder and of generated pictures, each number with its context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vae_ldm.evaluation.distribution import MIN_IMAGES
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.interval import share_interval
from vae_ldm.evaluation.linear_floor import LinearCode
from vae_ldm.evaluation.measurement import (
    Measurement,
    Reference,
    measured_mean,
    measured_share,
    percent,
    share_beside,
)
from vae_ldm.evaluation.memorisation import (
    HELD_OUT_QUANTILE,
    Neighbours,
    copies,
    nearest_in_features,
    nearest_in_pixels,
    too_near,
)
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.evaluation.reconstruction import reconstruction_metrics
from vae_ldm.evaluation.set_comparison import FrechetAxes, compare_sets
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.joined_pictures import PictureArray, each_size, of_one_size
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.models.vision_features import VisionFeatures
from vae_ldm.text import counted

# 200 MB of float32: enough pictures for a linear code of at most 768 inputs.
MAX_LINEAR_CODE_VALUES = 50_000_000


class LabelledPictures(Protocol):
    """One split, as `vae_ldm.data.pictures.Pictures`: uint8 [N, H, W, C], labels [N] with -1 for no class.

    An autoencoder may be measured on pictures of several sizes, each at its own.
    """

    @property
    def images(self) -> PictureArray: ...
    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class RealPictures:
    """The real pictures that a model is measured beside, and the networks that measure; both stages share one."""

    train: LabelledPictures
    validation: LabelledPictures
    features: VisionFeatures
    probe: ProbeClassifier | None = None
    batch_size: int = 64
    on_embedded: Callable[[int, int], None] | None = None
    """Hears how many of how many training pictures are embedded."""

    @cached_property
    def seen(self) -> Tensor:
        """Embeddings of the training pictures, [N, D]."""
        return embed_pictures(self.features, self.train.images, self.batch_size, self.on_embedded)

    @cached_property
    def held_out(self) -> Tensor:
        """Embeddings of the validation pictures, [N, D]."""
        return self.embed(self.validation.images)

    def embed(self, pictures: PictureArray) -> Tensor:
        """Embeddings [N, D] of pictures uint8 [N, H, W, C]."""
        return embed_pictures(self.features, pictures, self.batch_size)


@dataclass(frozen=True, eq=False)
class AutoencoderEvaluation:
    """What was measured, and what is worth showing."""

    measurements: list[Measurement]
    reconstructions: PictureArray
    """Reconstructions of all validation pictures, uint8 [N, H, W, C]."""
    psnr: np.ndarray
    """dB, [N]."""
    psnr_floors: np.ndarray
    """Those of a linear code of the same size, dB, [N]."""
    worst: list[int]
    """Validation pictures in order of PSNR, the worst first."""


@dataclass(frozen=True, eq=False)
class SampleEvaluation:
    """What was measured, and what is worth showing."""

    measurements: list[Measurement]
    nearest: np.ndarray
    """The training picture nearest to each sample by features, [N]."""
    nearest_in_pixels: np.ndarray
    """The same by pixels, [N]."""
    closest: list[int]
    """Samples in order of their distance to the nearest training picture by features: copies come first."""
    agrees: np.ndarray | None
    """Whether the probe sees what was asked for, booleans [N]."""
    balanced: np.ndarray
    """Rows of the samples that agreement is of."""


def evaluate_autoencoder(
    encode_decode: Callable[[Tensor], Tensor], real: RealPictures, *, downsample_factor: int, latent_channels: int
) -> AutoencoderEvaluation:
    """Reconstructions of all validation pictures, measured beside their floors and ceilings.

    `encode_decode` maps images [B, C, H, W] in [-1, 1] on the CPU to reconstructions of the same shape.
    """
    train, validation = real.train, real.validation
    assert len(validation.images), "an autoencoder is judged on validation pictures"
    code = LinearCode.fit(
        [as_images(some) for _, some in of_one_size(evenly_chosen(train.images, MAX_LINEAR_CODE_VALUES))],
        downsample_factor=downsample_factor,
        latent_channels=latent_channels,
    )
    scores, floors = [], []

    def both(pictures: np.ndarray) -> tuple[Tensor, Tensor]:
        originals = as_images(pictures)
        return originals, encode_decode(originals).float().cpu()

    def measure(pictures: PictureArray) -> np.ndarray:
        at_rest = []
        at_once = batch_size_for(pictures.shape[1:3], most=real.batch_size)
        for originals, reconstructions in in_batches(both, pictures, at_once):
            scores.append(reconstruction_metrics(originals, reconstructions))
            floors.append(reconstruction_metrics(originals, code.reconstruct(originals)))
            at_rest.append(as_pictures(reconstructions))
        return np.concatenate(at_rest)

    with torch.no_grad():
        reconstructed = each_size(measure, validation.images)
    rows = np.concatenate([rows for rows, _ in of_one_size(validation.images)])
    in_order = torch.from_numpy(rows.argsort())
    psnr = torch.cat([score.psnr for score in scores])[in_order]
    ssim = torch.cat([score.ssim for score in scores])[in_order]
    psnr_floors = torch.cat([floor.psnr for floor in floors])[in_order]
    ssim_floors = torch.cat([floor.ssim for floor in floors])[in_order]
    floor_name = f"PCA floor (f{downsample_factor}c{latent_channels})"
    measurements = [
        measured_mean("psnr", psnr, unit="dB", floors=psnr_floors, floor_name=floor_name),
        measured_mean("ssim", ssim, unit="", floors=ssim_floors, floor_name=floor_name),
    ]

    if min(len(train.images), len(validation.images)) >= MIN_IMAGES:
        seen, held_out, made = real.seen, real.held_out, real.embed(reconstructed)
        axes = FrechetAxes(real.features, seen, num_images=min(len(seen), len(held_out)))
        measurements.append(
            axes.measurement(
                held_out,
                made,
                split="validation",
                stage="autoencoder",
                reference=axes.reference(seen, held_out, "training against validation pictures"),
                paired=True,
            )
        )

    judged = np.flatnonzero(np.isin(validation.labels, trained_classes(train.labels)))
    if real.probe is not None and len(judged):
        labels = torch.from_numpy(np.asarray(validation.labels)[judged]).long()
        before, after = validation.images[judged], reconstructed[judged]
        measurements += _seen_by_probe(real.probe, before, after, labels, real.features.name)
    return AutoencoderEvaluation(
        measurements, reconstructed, psnr.numpy(), psnr_floors.numpy(), psnr.argsort().tolist()
    )


def _seen_by_probe(
    probe: ProbeClassifier, originals: PictureArray, reconstructions: PictureArray, labels: Tensor, features: str
) -> list[Measurement]:
    """How often the probe names the class [N] of originals and of their reconstructions, uint8 [N, H, W, C] each."""
    told = probe.agrees(originals, labels)
    kept = probe.agrees(reconstructions, labels)
    commonest = int(labels.bincount().max())
    return [
        measured_share(
            "probe_accuracy",
            told,
            split="validation",
            stage="autoencoder",
            better="higher",
            features=f"{features} probe on the originals",
            reference=Reference(100 * commonest / len(labels), "always naming the commonest class", "floor"),
        ),
        measured_share(
            "reconstruction_agreement",
            kept,
            split="validation",
            stage="autoencoder",
            better="higher",
            features=f"{features} probe",
            reference=share_beside(kept, told, "the originals", "limit"),
        ),
    ]


def evaluate_samples(
    samples: np.ndarray,
    sample_labels: Sequence[int] | np.ndarray | None,
    real: RealPictures,
    *,
    as_in_training: np.ndarray | None = None,
    balanced: np.ndarray | None = None,
    reconstruction_agreement: float | None = None,
    seed: int = 0,
) -> SampleEvaluation:
    """Generated pictures uint8 [N, H, W, C] against training pictures, beside what held-out real pictures reach.

    `sample_labels`: the class each sample was asked to show; None where there were no classes. Rows `as_in_training`
    have the classes as often as training pictures do: Fréchet distance, KID, precision and recall are of these. Rows
    `balanced` have them equally often: agreement is of these. Both are all by default. Near copies are looked for in
    all. `reconstruction_agreement` is the value, in percent, of the measurement of that name.
    """
    train, validation, features, probe = real.train, real.validation, real.features, real.probe
    seen, held_out, made = real.seen, real.held_out, real.embed(samples)
    near, near_in_pixels = nearest_in_features(made, seen), nearest_in_pixels(samples, train.images)
    measurements: list[Measurement] = []

    agrees = None
    if probe is not None and sample_labels is not None:
        agrees = probe.agrees(samples, torch.from_numpy(np.asarray(sample_labels)).long())
        measurements.append(
            measured_share(
                "prompt_agreement",
                agrees if balanced is None else agrees[balanced],
                split="generated",
                stage="diffusion",
                better="higher",
                features=f"{features.name} probe, classes equally often",
                reference=_agreement_of_originals(
                    probe, validation, np.unique(sample_labels), reconstruction_agreement
                ),
            )
        )

    compared = made if as_in_training is None else made[as_in_training]
    if min(len(seen), len(compared)) >= MIN_IMAGES:
        composition = "" if sample_labels is None else ", classes as often as in training"
        others = held_out if len(held_out) >= MIN_IMAGES else None
        measurements += compare_sets(features, seen, others, compared, seed, composition)

    if len(held_out) >= MIN_IMAGES:
        measurements.append(_memorised(near, nearest_in_features(held_out, seen), features.name))
    held_out_in_pixels = nearest_in_pixels(validation.images, train.images) if len(held_out) else None
    measurements.append(_copied(near_in_pixels, held_out_in_pixels))
    return SampleEvaluation(
        measurements,
        near.indices.numpy(),
        near_in_pixels.indices.numpy(),
        near.distances.argsort().tolist(),
        None if agrees is None else agrees.numpy(),
        np.arange(len(samples)) if balanced is None else balanced,
    )


def _memorised(samples: Neighbours, held_out: Neighbours, features: str) -> Measurement:
    """The share of samples that are as near to a training picture as few held-out pictures are."""
    return measured_share(
        f"memorised_{features}",
        too_near(samples, held_out),
        split="generated",
        stage="diffusion",
        better="lower",
        features=features + _duplicates_in_words(held_out),
        reference=Reference(100 * HELD_OUT_QUANTILE, "what new pictures come to by construction", "limit"),
    )


def _copied(samples: Neighbours, held_out: Neighbours | None) -> Measurement:
    """The share of samples that are copies in pixels, beside that of the held-out pictures where there are any."""
    return measured_share(
        "copies_in_pixels",
        copies(samples),
        split="generated",
        stage="diffusion",
        better="lower",
        features="pixels" + ("" if held_out is None else _duplicates_in_words(held_out)),
        reference=None if held_out is None else _copies_among_new(held_out),
    )


def trained_classes(labels: np.ndarray) -> np.ndarray:
    """The classes among labels [N], in order; -1 stands for none."""
    return np.unique(labels[labels >= 0])


def _agreement_of_originals(
    probe: ProbeClassifier, validation: LabelledPictures, asked: np.ndarray, reconstructed: float | None
) -> Reference | None:
    """What the probe says of held-out pictures of the classes `asked`, each weighing the same; None without any.

    It is no ceiling: samples may show their class more plainly than photos do. `reconstructed`, in percent, stands
    beside it.
    """
    rows = np.flatnonzero(np.isin(validation.labels, asked))
    if not len(rows):
        return None
    labels = np.asarray(validation.labels)[rows]
    told = probe.agrees(validation.images[rows], torch.from_numpy(labels).long()).numpy()
    shares = [told[labels == label].mean() for label in np.unique(labels)]
    name = "held-out pictures, each class weighing the same"
    if reconstructed is not None:
        name += f" (their reconstructions: {reconstructed:.1f} %)"
    return Reference(100 * float(np.mean(shares)), name, "comparison")


def _copies_among_new(held_out: Neighbours) -> Reference | None:
    """The share of copies among held-out pictures that are not training pictures; None where all are."""
    found = copies(held_out)[~held_out.duplicates]
    if not len(found):
        return None
    interval = percent(share_interval(int(found.sum()), len(found)))
    return Reference(100 * found.float().mean().item(), "validation pictures", "limit", interval)


def _duplicates_in_words(held_out: Neighbours) -> str:
    count = int(held_out.duplicates.sum())
    if not count:
        return ""
    of_all = f"{count:,} of {counted(len(held_out.distances), 'validation picture')}"
    if count == 1:
        return f"; {of_all} is also a training picture and is left out"
    return f"; {of_all} are also training pictures and are left out"


def evenly_chosen(pictures: PictureArray, max_values: int) -> PictureArray:
    """Pictures spread evenly over the set, as many as hold `max_values` numbers."""
    values = sum(len(rows) * some[0].size for rows, some in of_one_size(pictures))
    mean = -(-values // len(pictures))
    count = max(min(len(pictures), max_values // mean), 1)
    return pictures[np.linspace(0, len(pictures) - 1, count).astype(int)]
