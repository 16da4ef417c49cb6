"""Heat: its scale, and what is drawn of it."""

import numpy as np
import pytest
import torch

from vae_ldm.latent_space.heat_map import HeatScale, overlay, own_scale


def test_heat_is_nought_where_usual_and_one_at_the_threshold_of_maxima():
    maxima, rows = torch.arange(1, 20).double(), torch.arange(19)  # at 5 % the threshold is their highest
    scale = HeatScale.fit(torch.full((19,), 0.5), maxima, rows, 0.05)
    assert scale(torch.tensor([0.5, 19.0, 37.5])).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="needs 19 calibration photos, not 18"):
        HeatScale.fit(torch.full((18,), 0.5), maxima[:18], rows[:18], 0.05)
    with pytest.raises(ValueError, match="not 18"):
        HeatScale.fit(torch.full((19,), 0.5), maxima, rows.clamp(max=17), 0.05)


def test_maps_that_are_all_alike_have_a_scale():
    scale = HeatScale.fit(torch.zeros(19), torch.zeros(19), torch.arange(19), 0.05)
    assert scale(torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_heat_reaches_one_in_as_many_usual_photos_as_the_rate_says(rate):
    generator = torch.Generator().manual_seed(0)
    calibration, usual = (torch.rand(count, 48, generator=generator) for count in (999, 4000))
    groups = torch.arange(999)
    # A series of one photo over and over, and a strange one, weighs as one.
    strange = torch.cat([calibration, torch.full((300, 48), 9.0)])
    for maps, members in ((calibration, groups), (strange, torch.cat([groups, torch.full((300,), 999)]))):
        scale = HeatScale.fit(maps.mean(dim=1), maps.amax(dim=1), members, rate)
        assert (scale(usual).amax(dim=1) > 1).float().mean().item() == pytest.approx(rate, abs=0.02)


def test_on_its_own_scale_the_strangest_place_of_any_photo_is_seen():
    heat = torch.full((4, 6), -0.9)  # as usual as can be, everywhere
    heat[1, 4] = -0.5
    grey = np.full((32, 48, 3), 128, np.uint8)
    assert not np.ptp(overlay(grey, heat))
    drawn = overlay(grey, own_scale(heat))
    red = drawn[..., 0].astype(int) - drawn[..., 2]
    assert red.max() > 60
    assert np.unravel_index(red.argmax(), red.shape) == (pytest.approx(72, abs=24), pytest.approx(216, abs=24))
    assert not np.ptp(overlay(grey, own_scale(torch.ones(4, 6))))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_cold_photo_is_left_grey_and_a_hot_place_turns_red(channels):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, channels), np.uint8)
    grey = np.round(picture[..., :3].mean(axis=2, keepdims=True)).astype(np.uint8)
    cold = overlay(picture, torch.zeros(4, 6))
    assert cold.shape == (192, 288, 3)  # six times as large, so that it can be seen
    assert np.array_equal(cold[::6, ::6], grey.repeat(3, axis=2))
    heat = torch.zeros(4, 6)
    heat[1, 4] = 5.0
    hot = overlay(np.full_like(picture, 100), heat)
    assert hot.dtype == np.uint8
    red = hot[..., 0].astype(int) - hot[..., 2]
    assert np.unravel_index(red.argmax(), red.shape) == (pytest.approx(72, abs=40), pytest.approx(216, abs=40))
    assert not red[:, :96].any()
