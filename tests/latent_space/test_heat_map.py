"""Heat: its scale, and what is drawn of it."""

import numpy as np
import pytest
import torch

from vae_ldm.latent_space.heat_map import at_size, fit_scales, overlay, own_scale


def test_heat_is_nought_where_usual_and_one_at_the_threshold_of_maxima():
    maxima = torch.arange(1, 20).double()[:, None]  # 19 photos: at 5 % the threshold is their highest
    (scale,) = fit_scales(torch.full((19, 1), 0.5), maxima, 0.05)
    assert scale(torch.tensor([0.5, 19.0, 37.5])).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="needs 19 calibration photos, not 18"):
        fit_scales(torch.full((18, 1), 0.5), maxima[:18], 0.05)


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_what_is_shown_of_two_maps_reaches_one_in_as_many_usual_photos_as_the_rate_says(rate):
    generator = torch.Generator().manual_seed(0)

    def maps(count):
        """Of two kinds of strangeness that have nothing to do with each other, one of them with few strange pixels."""
        patches = torch.rand(count, 6, 8, generator=generator)
        residual = torch.randn(count, 48, 64, generator=generator).exp()
        return torch.stack([patches, at_size(residual, (6, 8))], dim=1).flatten(2)

    calibration, usual = maps(999), maps(4000)
    scales = fit_scales(calibration.mean(dim=2), calibration.amax(dim=2), rate)
    highest = [scale(usual[:, number].amax(dim=1)) for number, scale in enumerate(scales)]
    assert (torch.maximum(*highest) > 1).float().mean().item() == pytest.approx(rate, abs=0.02)
    assert all((each > 1).float().mean() > 0.3 * rate for each in highest)
    assert scales[0].usual == pytest.approx(0.5, abs=0.01)


def test_a_map_is_brought_to_another_size_by_the_mean_of_what_it_shows():
    fine = torch.zeros(1, 8, 8)
    fine[0, 6:, 6:] = 3.0
    coarse = at_size(fine, (4, 4))
    assert coarse.shape == (1, 4, 4)
    assert (coarse[0, 3, 3], coarse[0, 0, 0]) == (pytest.approx(3, abs=1), 0)


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
def test_a_cold_photo_is_left_as_it_is_and_a_hot_place_turns_red(channels):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, channels), np.uint8)
    cold = overlay(picture, torch.zeros(4, 6))
    assert cold.shape == (192, 288, 3)  # six times as large, so that it can be seen
    assert np.array_equal(cold[::6, ::6], np.repeat(picture, 3, axis=2) if channels == 1 else picture[..., :3])
    heat = torch.zeros(4, 6)
    heat[1, 4] = 5.0
    hot = overlay(np.full_like(picture, 100), heat)
    assert hot.dtype == np.uint8
    red = hot[..., 0].astype(int) - hot[..., 2]
    assert np.unravel_index(red.argmax(), red.shape) == (pytest.approx(72, abs=40), pytest.approx(216, abs=40))
    assert not red[:, :96].any()
