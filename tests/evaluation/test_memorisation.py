import numpy as np
import pytest
import torch

from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.memorisation import (
    Neighbours,
    copies,
    nearest_in_features,
    nearest_in_pixels,
    nearest_neighbours,
    too_near,
)
from vae_ldm.models.vision_features import VisionFeatures


def test_neighbours_by_hand() -> None:
    found = nearest_neighbours(torch.tensor([[0.0], [9.0]]), torch.tensor([[2.0], [-1.0], [10.5]]))
    assert found.indices.tolist() == [1, 2]
    assert found.distances.tolist() == [1.0, 1.5]
    assert found.second_distances.tolist() == [2.0, 7.0]
    assert found.closest(1) == [0]


def test_chunks_change_nothing_and_a_copy_is_at_distance_zero() -> None:
    references = torch.randn(70, 512, generator=torch.Generator().manual_seed(0)) * 30
    found = nearest_neighbours(references[:40], references, chunk_size=7)
    assert found.indices.tolist() == list(range(40))
    assert found.distances.max() == 0
    assert (found.second_distances > 100).all()


def test_one_training_picture_is_enough() -> None:
    found = nearest_neighbours(torch.zeros(2, 3), torch.ones(1, 3))
    assert found.indices.tolist() == [0, 0]
    assert not copies(found).any()


def test_thresholds() -> None:
    held_out = Neighbours(torch.zeros(101).long(), torch.linspace(1, 2, 101), torch.full((101,), 9.0))
    samples = Neighbours(torch.arange(4), torch.tensor([0.5, 1.0, 1.01, 1.5]), torch.tensor([1.2, 3.5, 3.0, 4.6]))
    assert too_near(samples, held_out).tolist() == [True, True, True, False]
    assert copies(samples).tolist() == [False, True, False, True]


@pytest.mark.parametrize("num_times", [1, 2, 9])
@pytest.mark.parametrize("num_shared", [0, 4, 60])
def test_photos_that_are_there_twice_hide_no_copy(make_pictures, num_times: int, num_shared: int) -> None:
    """All samples are exact copies: of photos given many times, and with held-out photos that are in training too."""
    train, _ = make_pictures(100, seed=0)
    held_out, _ = make_pictures(60, seed=1)
    fresh, _ = make_pictures(40, seed=2)
    held_out[:num_shared] = train[:num_shared]
    many = np.concatenate([train] * num_times)
    copied, new, bar = (nearest_in_pixels(pictures, many) for pictures in (train[20:50], fresh, held_out))
    assert too_near(copied, bar).all()
    assert copies(copied).all()
    assert too_near(new, bar).float().mean() < 0.1
    assert copies(new).float().mean() < 0.1
    assert int(bar.duplicates.sum()) == num_shared


def test_training_pictures_that_are_all_the_same() -> None:
    found = nearest_neighbours(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.zeros(9, 2))
    assert found.second_distances.tolist() == [0.0, 5.0]
    assert copies(found).tolist() == [True, False]


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((24, 40), 1), ((48, 96), 4)])
def test_copies_are_found_and_new_pictures_are_not(
    features: VisionFeatures, make_pictures, size: tuple[int, int], channels: int
) -> None:
    train, _ = make_pictures(150, seed=0, size=size, channels=channels)
    held_out, _ = make_pictures(60, seed=1, size=size, channels=channels)
    fresh, _ = make_pictures(20, seed=2, size=size, channels=channels)
    noise = np.random.default_rng(0).integers(-4, 5, train[:20].shape)
    copied = (train[:20].astype(int) + noise).clip(0, 255).astype(np.uint8)

    pixels = nearest_in_pixels(copied, train)
    assert pixels.indices.tolist() == list(range(20))
    assert copies(pixels).float().mean() > 0.9
    mirrored = nearest_in_pixels(np.ascontiguousarray(copied[:, :, ::-1]), train)
    assert mirrored.indices.tolist() == list(range(20))
    assert copies(nearest_in_pixels(fresh, train)).float().mean() < 0.1

    seen = embed_pictures(features, train)
    reference = nearest_in_features(embed_pictures(features, held_out), seen)
    assert too_near(nearest_in_features(embed_pictures(features, copied), seen), reference).float().mean() > 0.5
    assert too_near(nearest_in_features(embed_pictures(features, fresh), seen), reference).float().mean() < 0.2
