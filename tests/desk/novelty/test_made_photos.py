"""Damaged copies of drawn photos: how strong they are made, of which photos, and how a backbone sees them."""

import numpy as np
import pytest
import torch

from tests.support.tin_photos import usual_photo
from vae_ldm.data.made_damage import KINDS
from vae_ldm.desk.novelty.backbone_features import SIDE, damaged_shares, features_from_stages, squares
from vae_ldm.desk.novelty.made_photos import draw_sources, fit_strengths, make_copies, thumbnail
from vae_ldm.latent_space.novelty_scores.pixel_floor import PixelFloor, farther_auroc
from vae_ldm.models.vision_features import load_efficientnet_lite


@pytest.fixture(scope="module")
def tins():
    rng = np.random.default_rng(0)
    return [usual_photo(rng) for _ in range(90)]


@pytest.fixture(scope="module")
def strengths(tins):
    return fit_strengths(tins)


def test_each_kind_is_as_strong_as_the_floor_can_just_tell(tins, strengths):
    assert set(strengths) == set(KINDS)
    for kind in KINDS:
        found = strengths[kind]
        assert 0 < found.strength <= 1
        # Of 30 photos a step of a 128th of the strength may turn over several pairs at once.
        assert found.floor == pytest.approx(0.7, abs=0.08) or (found.strength == 1 and found.floor < 0.7), kind
    # On photos that the strength was not chosen by the floor tells about as much.
    floor = PixelFloor.fit(squares(tins[:60], 32).flatten(1))
    usual = floor(squares([thumbnail(each) for each in tins[60:]], 32).flatten(1))
    told = []
    for kind in KINDS:
        copies = make_copies(
            [thumbnail(each) for each in tins], [(row, 0) for row in range(60, 90)], kind, strengths, seed=5
        )
        told.append(farther_auroc(usual, floor(squares([each.image for each in copies], 32).flatten(1))))
    assert 0.6 < sum(told) / len(told) < 0.85


def test_the_same_photos_have_the_same_strengths_and_copies(tins, strengths):
    assert fit_strengths(tins) == strengths
    first, second = (make_copies(tins, [(3, 4), (7, 1)], "spot", strengths, seed=1) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)
    assert not np.array_equal(first[0].image, tins[3])
    elsewhere = make_copies(tins, [(3, 4)], "spot", strengths, seed=2)[0]
    assert not np.array_equal(first[0].mask, elsewhere.mask)


def test_a_piece_comes_from_another_photo_of_the_same_fold():
    folds = torch.arange(30) % 5
    sources = draw_sources(folds, 12, seed=0)
    assert len({row for row, _ in sources}) == 12
    assert all(folds[row] == folds[lender] and row != lender for row, lender in sources)
    assert draw_sources(folds, 12, seed=0) == sources
    assert len(draw_sources(folds, 99, seed=0)) == 30
    assert draw_sources(torch.arange(3), 3, seed=0) == [(0, 0), (1, 1), (2, 2)]  # alone in its fold


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_any_size_and_channels_become_squares(channels):
    picture = np.zeros((20, 50, channels), dtype=np.uint8)
    picture[:, 25:] = 255
    images = squares([picture, picture[:10]], 32)
    assert images.shape == (2, 3, 32, 32)
    assert images[:, :, :, :12].max() == pytest.approx(-1)
    assert images[:, :, :, 20:].min() == pytest.approx(1)


def test_features_of_a_convolutional_backbone(tins):
    images = squares(tins[:2])
    assert images.shape[-1] == SIDE
    with torch.no_grad():
        stages = load_efficientnet_lite().stages(images)
    seen = features_from_stages(images, stages)
    assert [each.shape[1] for each in seen.moments] == [32, 48, 80, 224, 640]
    torch.testing.assert_close(seen.moments[1][:, :24], stages[1].mean(dim=(2, 3)))
    torch.testing.assert_close(seen.moments[1][:, 24:], stages[1].flatten(2).std(dim=2, correction=0))
    assert [each.shape[1] for each in seen.layouts] == [3 * 32 * 32, 24 * 49, 112 * 49]
    assert seen.patches.shape == (2, 14 * 14, 40 + 112)
    # Row by row: the place in the second row and third column lies at 1 * 14 + 2.
    fine = torch.nn.functional.avg_pool2d(stages[2], 3, stride=1, padding=1, count_include_pad=False)
    torch.testing.assert_close(seen.patches[:, 16, :40], fine[:, :, 2:4, 4:6].mean(dim=(2, 3)))


def test_the_share_of_a_place_that_is_damaged():
    mask = np.zeros((28, 56), dtype=bool)
    mask[2:4, 4:6] = True  # half of the place in the second row and column, of 2 x 4 px
    shares = damaged_shares([mask, ~mask])
    assert shares[0, 15] == 0.5
    assert shares[0].sum() == 0.5
    assert torch.equal(shares[1], 1 - shares[0])


def test_features_of_a_transformer_s_tokens():
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(2, 8, 17, 1, generator=generator) for _ in range(4)]  # a class token and 4 x 4 places
    seen = features_from_stages(torch.zeros(2, 3, 32, 32), tokens)
    torch.testing.assert_close(seen.moments[0][:, :8], tokens[0][:, :, 1:, 0].mean(dim=2))
    assert [each.shape[1] for each in seen.layouts] == [3 * 32 * 32, 8 * 16, 8 * 16]
    assert seen.patches.shape == (2, 16, 16)
