import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.evaluator import evaluate_autoencoder, evaluate_samples
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.models.pixels import as_pictures
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
    embeddings = embed_pictures(features, train.images)
    good, bad = (
        evaluate_autoencoder(
            encode_decode,
            train,
            validation,
            features=features,
            downsample_factor=4,
            latent_channels=4,
            probe=probe,
            batch_size=16,
            train_embeddings=embeddings,
        )
        for encode_decode in (lambda images: images * 0.98, soften)
    )
    found, poor = by_name(good.measurements), by_name(bad.measurements)
    assert list(found) == ["psnr", "ssim", "fd_EffLite0_pca10", "reconstruction_agreement"]
    assert all(m.stage == "autoencoder" and m.split == "validation" and m.num_images == 40 for m in found.values())
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
        fresh, labels, train, validation, features=features, probe=probe, agreement_ceiling=90.0, batch_size=16
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
    assert all(m.stage == "diffusion" and m.split == "generated" for m in found.values())
    assert all(m.reference is not None for m in found.values())
    assert found["prompt_agreement"].num_images == 48
    assert found["fd_EffLite0_pca10"].num_images == 40, "as many as there are validation pictures"
    assert found["fd_EffLite0_pca10"].value < 1.5 * found["fd_EffLite0_pca10"].reference
    assert found["memorised_EffLite0"].value < 20
    assert result.agrees is not None
    assert result.agrees.mean() == pytest.approx(found["prompt_agreement"].value / 100)
    assert result.nearest.shape == result.nearest_in_pixels.shape == (48,)


def test_copies_and_blur_show(features: VisionFeatures, splits) -> None:
    train, validation = splits
    copied = evaluate_samples(train.images[:40], None, train, validation, features=features)
    found = by_name(copied.measurements)
    assert found["memorised_EffLite0"].value == found["copies_in_pixels"].value == 100
    assert copied.nearest.tolist() == copied.nearest_in_pixels.tolist() == list(range(40))
    assert copied.agrees is None

    images = torch.from_numpy(validation.images).permute(0, 3, 1, 2) / 127.5 - 1
    blurred = by_name(
        evaluate_samples(as_pictures(soften(images)), None, train, validation, features=features).measurements
    )
    for name in ("fd_EffLite0_pca10", "kid_EffLite0"):
        assert blurred[name].value > 2 * found[name].value
    assert blurred["precision_EffLite0"].value < found["precision_EffLite0"].value


def test_three_pictures_in_all_give_what_can_be_said(features: VisionFeatures, splits) -> None:
    train = SimpleNamespace(images=splits[0].images[:2], labels=np.full(2, -1))
    validation = SimpleNamespace(images=splits[1].images[:1], labels=np.full(1, -1))
    autoencoder = evaluate_autoencoder(
        soften, train, validation, features=features, downsample_factor=4, latent_channels=4
    )
    assert list(by_name(autoencoder.measurements)) == ["psnr", "ssim"]
    samples = evaluate_samples(splits[1].images[:4], None, train, validation, features=features)
    assert list(by_name(samples.measurements)) == ["copies_in_pixels"]
