import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.evaluator import RealPictures, evaluate_autoencoder, evaluate_samples
from vae_ldm.evaluation.meaning import meaning
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.evaluation.verdict import verdict
from vae_ldm.models.joined_pictures import JoinedPictures
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.models.vision_features import VisionFeatures


@pytest.fixture(scope="module")
def splits(make_pictures) -> tuple[SimpleNamespace, SimpleNamespace]:
    return tuple(
        SimpleNamespace(images=images, labels=labels)
        for images, labels in (make_pictures(120, seed=0), make_pictures(40, seed=1))
    )


@pytest.fixture(scope="module")
def probe(features: VisionFeatures, splits) -> ProbeClassifier:
    return ProbeClassifier.fit(splits[0].images, splits[0].labels, 4, features=features, seed=0, max_steps=100)


def soften(images: Tensor) -> Tensor:
    return F.interpolate(F.interpolate(images, scale_factor=0.25, mode="bilinear", antialias=True), 32)


def by_name(measurements: list[Measurement]) -> dict[str, Measurement]:
    names = [measurement.name for measurement in measurements]
    assert len(set(names)) == len(names)
    json.dumps([measurement.as_dict() for measurement in measurements], allow_nan=False)
    return {measurement.name: measurement for measurement in measurements}


def test_an_autoencoder_beside_its_floors_and_ceilings(features: VisionFeatures, splits, probe) -> None:
    train, validation = splits
    good, bad = (
        evaluate_autoencoder(
            encode_decode,
            RealPictures(train, validation, features, probe, batch_size=16),
            downsample_factor=4,
            latent_channels=4,
        )
        for encode_decode in (lambda images: images * 0.98, soften)
    )
    found, poor = by_name(good.measurements), by_name(bad.measurements)
    assert list(found) == ["psnr", "ssim", "fd_EffLite0_pca10", "probe_accuracy", "reconstruction_agreement"]
    assert all(map(meaning, found)), "every number is explained on the pages"
    assert all(m.stage == "autoencoder" and m.split == "validation" and m.num_images == 40 for m in found.values())
    assert all(m.low <= m.value <= m.high for m in found.values())
    assert found.pop("probe_accuracy") == poor.pop("probe_accuracy"), "of the originals"
    for name, measurement in found.items():
        better = measurement.value > poor[name].value
        assert better == (measurement.better == "higher"), name
        assert measurement.reference is not None
        assert measurement.reference == pytest.approx(poor[name].reference)
    assert found["psnr"].value > found["psnr"].reference > poor["psnr"].value
    assert found["reconstruction_agreement"].reference > 90
    assert good.reconstructions.shape == validation.images.shape
    np.testing.assert_allclose(bad.psnr[bad.worst], np.sort(bad.psnr))


def test_samples_beside_held_out_pictures(features: VisionFeatures, splits, probe, make_pictures) -> None:
    train, validation = splits
    fresh, labels = make_pictures(48, seed=2)
    result = evaluate_samples(
        fresh,
        labels,
        RealPictures(train, validation, features, probe, batch_size=16),
        reconstruction_agreement=90.0,
    )
    found = by_name(result.measurements)
    assert list(found) == [
        "prompt_agreement",
        "fd_EffLite0_pca10",
        "kid_EffLite0",
        "precision_EffLite0",
        "recall_EffLite0",
        "memorised_EffLite0",
        "copies_in_pixels",
    ]
    assert all(map(meaning, found))
    assert all(m.stage == "diffusion" and m.split == "generated" for m in found.values())
    assert all(m.reference is not None for m in found.values())
    assert found["prompt_agreement"].num_images == 48
    assert found["fd_EffLite0_pca10"].num_images == 40, "as many as there are validation pictures"
    assert found["fd_EffLite0_pca10"].value < 1.5 * found["fd_EffLite0_pca10"].reference
    assert found["fd_EffLite0_pca10"].features.endswith("dimensions, classes as often as in training")
    assert all(m.low <= m.value <= m.high for m in found.values())
    assert found["kid_EffLite0"].reference_low < found["kid_EffLite0"].reference < found["kid_EffLite0"].reference_high
    assert found["prompt_agreement"].reference_name == (
        "held-out pictures, each class weighing the same (their reconstructions: 90.0 %)"
    )
    assert found["memorised_EffLite0"].reference == 1.0
    assert "by construction" in found["memorised_EffLite0"].reference_name
    assert found["memorised_EffLite0"].value < 20
    assert result.agrees is not None
    assert result.agrees.mean() == pytest.approx(found["prompt_agreement"].value / 100)
    assert result.nearest.shape == result.nearest_in_pixels.shape == (48,)


def test_a_perfect_generator_is_as_near_as_held_out_pictures(features: VisionFeatures, make_pictures) -> None:
    """Nine in ten pictures are of class 0, and so are the samples that are compared with them."""
    parts = [make_pictures(300, seed=seed) for seed in (0, 1, 2)]
    seen, held_out, drawn = (
        SimpleNamespace(images=images[rows], labels=labels[rows])
        for (images, labels), rows in ((part, _mostly_of_class_0(part[1])) for part in parts)
    )
    even = [np.flatnonzero(parts[2][1] == label)[:10] for label in range(4)]
    samples = np.concatenate([parts[2][0][np.concatenate(even)], drawn.images])
    labels = np.concatenate([np.repeat(np.arange(4), 10), drawn.labels])

    def measured(**rows: np.ndarray) -> dict[str, Measurement]:
        return by_name(evaluate_samples(samples, labels, RealPictures(seen, held_out, features), **rows).measurements)

    own = measured(as_in_training=np.arange(40, len(samples)))
    class_by_class = measured(as_in_training=np.arange(40))
    for name in ("fd_EffLite0_pca9", "kid_EffLite0"):
        assert verdict(own[name]).word != "falls short", name
        assert verdict(class_by_class[name]).word == "falls short", name
        assert class_by_class[name].value > 1.5 * own[name].value


def _mostly_of_class_0(labels: np.ndarray) -> np.ndarray:
    kinds = [np.flatnonzero(labels == label) for label in range(4)]
    return np.concatenate([kinds[0][:36], *(rows[:1] for rows in kinds[1:])])


def test_of_rows_that_are_balanced_is_agreement(features: VisionFeatures, splits, probe) -> None:
    train, validation = splits
    wrong = (validation.labels + 1) % 4
    labels = np.where(np.arange(40) < 10, validation.labels, wrong)
    result = evaluate_samples(
        validation.images, labels, RealPictures(train, validation, features, probe), balanced=np.arange(10)
    )
    found = by_name(result.measurements)["prompt_agreement"]
    assert (found.value, found.num_images) == (pytest.approx(100, abs=11), 10)
    assert len(result.agrees) == 40


def test_a_class_that_was_never_trained_is_not_scored(features: VisionFeatures, splits) -> None:
    train, validation = splits
    rows = train.labels != 3
    trained = SimpleNamespace(images=train.images[rows], labels=train.labels[rows])
    probe = ProbeClassifier.fit(trained.images, trained.labels, 4, features=features, seed=0, max_steps=100)
    result = evaluate_autoencoder(
        lambda images: images,
        RealPictures(trained, validation, features, probe),
        downsample_factor=4,
        latent_channels=4,
    )
    found = by_name(result.measurements)
    assert found["psnr"].num_images == 40
    assert found["probe_accuracy"].num_images == (validation.labels != 3).sum()
    assert found["reconstruction_agreement"].value == found["probe_accuracy"].value > 80


def test_duplicates_are_counted_where_they_matter(features: VisionFeatures, splits) -> None:
    train, validation = splits
    mixed = SimpleNamespace(images=np.concatenate([train.images[:3], validation.images]), labels=np.zeros(43, int))
    found = by_name(evaluate_samples(train.images[:40], None, RealPictures(train, mixed, features)).measurements)
    for name in ("memorised_EffLite0", "copies_in_pixels"):
        assert found[name].value == 100
        assert "3 of 43 validation pictures are also training pictures and are left out" in found[name].features
    assert found["copies_in_pixels"].reference < 10, "of those that are new"


def test_copies_and_blur_show(features: VisionFeatures, splits) -> None:
    train, validation = splits
    copied = evaluate_samples(train.images[:40], None, RealPictures(train, validation, features))
    found = by_name(copied.measurements)
    assert found["memorised_EffLite0"].value == found["copies_in_pixels"].value == 100
    assert copied.nearest.tolist() == copied.nearest_in_pixels.tolist() == list(range(40))
    assert copied.agrees is None

    images = torch.from_numpy(validation.images).permute(0, 3, 1, 2) / 127.5 - 1
    blurred = by_name(
        evaluate_samples(as_pictures(soften(images)), None, RealPictures(train, validation, features)).measurements
    )
    for name in ("fd_EffLite0_pca10", "kid_EffLite0"):
        assert blurred[name].value > 2 * found[name].value
    assert blurred["precision_EffLite0"].value < found["precision_EffLite0"].value


def test_three_pictures_in_all_give_what_can_be_said(features: VisionFeatures, splits) -> None:
    train = SimpleNamespace(images=splits[0].images[:2], labels=np.full(2, -1))
    validation = SimpleNamespace(images=splits[1].images[:1], labels=np.full(1, -1))
    autoencoder = evaluate_autoencoder(
        soften, RealPictures(train, validation, features), downsample_factor=4, latent_channels=4
    )
    assert list(by_name(autoencoder.measurements)) == ["psnr", "ssim"]
    samples = evaluate_samples(splits[1].images[:4], None, RealPictures(train, validation, features))
    assert list(by_name(samples.measurements)) == ["copies_in_pixels"]


def test_real_pictures_are_embedded_once_for_both_stages(features: VisionFeatures, splits, monkeypatch) -> None:
    embedded: list[int] = []

    def counted(network: VisionFeatures, pictures: np.ndarray, *args: Any) -> Tensor:
        embedded.append(len(pictures))
        return embed_pictures(network, pictures, *args)

    monkeypatch.setattr("vae_ldm.evaluation.evaluator.embed_pictures", counted)
    real = RealPictures(*splits, features)
    evaluate_autoencoder(soften, real, downsample_factor=4, latent_channels=4)
    evaluate_samples(splits[1].images[:30], None, real)
    assert sorted(embedded) == [30, 40, 40, 120], "samples, validation pictures and their reconstructions, training"


def _joined(splits, sizes=((32, 32), (32, 32))) -> list[SimpleNamespace]:
    """The splits as pictures of two arrays in turn, each cut to one of the sizes."""
    found = []
    for split in splits:
        turn = np.arange(len(split.images)) % 2
        arrays = [split.images[turn == part, :height, :width] for part, (height, width) in enumerate(sizes)]
        found.append(
            SimpleNamespace(images=JoinedPictures(arrays, turn, np.arange(len(turn)) // 2), labels=split.labels)
        )
    return found


def test_pictures_of_several_arrays_are_measured_as_those_of_one(features: VisionFeatures, splits, probe) -> None:
    settings = {"downsample_factor": 4, "latent_channels": 4}
    one, several = (
        evaluate_autoencoder(soften, RealPictures(*both, features, probe, batch_size=16), **settings)
        for both in (splits, _joined(splits))
    )
    assert one.measurements == several.measurements
    assert np.array_equal(one.reconstructions, several.reconstructions)
    assert one.worst == several.worst


def test_pictures_of_several_sizes_are_measured_each_at_its_own(features: VisionFeatures, splits, probe) -> None:
    train, validation = _joined(splits, ((24, 32), (32, 16)))
    found = evaluate_autoencoder(
        lambda images: images * 0.9,
        RealPictures(train, validation, features, probe, batch_size=7),
        downsample_factor=4,
        latent_channels=4,
    )
    assert {m.num_images for m in found.measurements} == {40}
    assert {m.name for m in found.measurements} >= {"psnr", "fd_EffLite0_pca10", "reconstruction_agreement"}
    made = as_pictures(as_images(np.asarray(validation.images[[5]])) * 0.9)
    assert np.array_equal(found.reconstructions[5], made[0])
    error = (as_images(np.asarray(validation.images[[5]])) * 0.1).square().mean().item()
    assert found.psnr[5] == pytest.approx(10 * np.log10(4 / error), abs=1e-3)
    embedded = embed_pictures(features, validation.images, 7)
    assert torch.allclose(embedded[5:6], embed_pictures(features, np.asarray(validation.images[[5]])), atol=1e-4)
    told = probe.probabilities(validation.images)
    assert torch.allclose(told[5:6], probe.probabilities(np.asarray(validation.images[[5]])), atol=1e-3)
    fitted = ProbeClassifier.fit(train.images, train.labels, 4, features=features, seed=0, max_steps=100)
    right = fitted.agrees(validation.images, torch.from_numpy(validation.labels)).float().mean()
    assert right > 0.6
