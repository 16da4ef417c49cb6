import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_ldm.evaluation.distribution import (
    frechet_dimensions,
    frechet_distance,
    frechet_interval,
    kernel_distance,
    precision_recall,
    principal_axes,
)
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.interval import share_interval
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.models.vision_features import VisionFeatures


def gaussian(count: int, seed: int, mean: float = 0.0, std: float = 1.0, dimensions: int = 8) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) * std + mean


def test_frechet_distance_by_hand() -> None:
    """Of equal covariances it is the squared distance of the means; of s and 2s in d dimensions, d s^2 is added."""
    x = gaussian(500, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-3)
    assert frechet_distance(x, x + 3) == pytest.approx(9 * 8, rel=1e-3)
    trace = x.double().T.cov().trace().item()
    assert frechet_distance(x, (x - x.mean(0)) * 2 + x.mean(0)) == pytest.approx(trace, rel=1e-3)


@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_the_frechet_interval_is_as_wide_as_repetition_says(mean: float) -> None:
    """Where the distance is near 0 it errs on the wide side."""
    real = gaussian(1000, 99)
    repeated = [gaussian(200, seed, mean=mean, std=1.2) for seed in range(40)]
    values = [frechet_distance(real, made) for made in repeated]
    intervals = [frechet_interval(real, made) for made in repeated]
    assert intervals[0].low < values[0] < intervals[0].high
    claimed = np.mean([(interval.high - interval.low) / 2 / 1.96 for interval in intervals])
    assert 0.8 < claimed / np.std(values) < 1.6


def test_of_pairs_the_frechet_interval_knows_that_both_are_of_one_picture() -> None:
    real = gaussian(200, 0)
    paired, alone = (frechet_interval(real, real * 1.1, paired=paired) for paired in (True, False))
    assert paired.high - paired.low < (alone.high - alone.low) / 2
    assert paired.low < frechet_distance(real, real * 1.1) < paired.high


@pytest.mark.parametrize(("num_images", "expected"), [(3000, 1280), (2559, 64), (256, 64), (100, 25), (16, 4)])
def test_few_pictures_get_few_dimensions(num_images: int, expected: int) -> None:
    assert frechet_dimensions(num_images, 1280) == expected


def test_principal_axes_hold_the_largest_variance() -> None:
    x = gaussian(2000, 0) * torch.tensor([1.0, 9.0, 1.0, 1.0, 4.0, 1.0, 1.0, 1.0])
    axes = principal_axes(x, 2)
    assert axes[1, 0].abs() > 0.99
    assert axes[4, 1].abs() > 0.99


def test_kernel_distance_by_hand() -> None:
    """With one subset of everything it is the double sum of Binkowski 2018, diagonals left out."""
    x, y = gaussian(6, 0), gaussian(6, 1, mean=1.0)
    kernel = [[(a @ b.T / 8 + 1) ** 3 for b in (x, y)] for a in (x, y)]
    expected = sum((k.sum() - k.trace()) / 30 for k in (kernel[0][0], kernel[1][1])) - 2 * kernel[0][1].mean()
    halves = [kernel_distance(x, y, num_subsets=400, seed=seed).value for seed in range(2)]
    assert halves[0] != halves[1]
    assert np.mean(halves) == pytest.approx(float(expected), rel=0.1)


def test_the_kernel_interval_covers_zero_for_equal_distributions_only() -> None:
    state = torch.random.get_rng_state()
    same = kernel_distance(gaussian(300, 0), gaussian(200, 1))
    apart = kernel_distance(gaussian(300, 0), gaussian(200, 1, mean=0.5))
    assert same.interval.low < 0 < same.interval.high
    assert apart.interval.low > 0
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_kernel_interval_is_as_wide_as_repetition_says() -> None:
    """Half the interval over 1.96 is the standard error that fresh draws of the same number show."""
    repeated = [kernel_distance(gaussian(200, 2 * s), gaussian(200, 2 * s + 1, mean=0.5)) for s in range(30)]
    spread = np.std([k.value for k in repeated])
    claimed = np.mean([(k.interval.high - k.interval.low) / 2 / 1.96 for k in repeated])
    assert claimed == pytest.approx(spread, rel=0.35)


def test_precision_and_recall_tell_quality_from_variety() -> None:
    real = torch.cat([gaussian(60, 0, mean=3.0), gaussian(60, 1) + torch.tensor([6.0, -6.0] * 4)])
    fresh = torch.cat([gaussian(60, 2, mean=3.0), gaussian(60, 3) + torch.tensor([6.0, -6.0] * 4)])
    assert min(precision_recall(real, fresh)[:2]) > 0.7
    one_mode = precision_recall(real, gaussian(120, 4, mean=3.0))
    assert one_mode.precision > 0.7
    assert one_mode.recall < 0.55
    assert max(precision_recall(real, gaussian(120, 5, mean=-3.0))[:2]) == 0.0
    assert one_mode.recall_interval == share_interval(round(120 * one_mode.recall), 120)


def test_on_pictures_the_measures_order_blur_and_noise(features: VisionFeatures, make_pictures) -> None:
    train, _ = make_pictures(160, seed=0)
    other, _ = make_pictures(80, seed=1)
    images = as_images(other)
    soft, softer = (
        as_pictures(F.interpolate(F.interpolate(images, scale_factor=s, antialias=True, mode="bilinear"), 32))
        for s in (0.5, 0.25)
    )
    noise = np.random.default_rng(0).integers(0, 256, other.shape, dtype=np.uint8)
    real, *judged = (embed_pictures(features, pictures) for pictures in (train, other, soft, softer, noise))
    axes = principal_axes(real, 20)
    distances = [frechet_distance(real @ axes, made @ axes) for made in judged]
    assert distances == sorted(distances)
    kids = [kernel_distance(real, made).value for made in judged]
    assert kids == sorted(kids)
    precisions = [precision_recall(real[:80], made).precision for made in judged]
    assert precisions[0] > 0.6
    assert precisions[0] > precisions[1] > precisions[2]
    # The trap that unit length was chosen for: by distance, noise lies inside the ball of every outlier.
    assert precisions[3] == 0.0
