import numpy as np
import pytest

from vae_ldm.errors import RunError
from vae_ldm.lesson.autoencoder import (
    PlainAutoencoder,
    fit,
    linear_code_error,
    principal_components,
    squared_error,
    squared_error_gradient,
)
from vae_ldm.lesson.judgement import halfway, rms, same_kind
from vae_ldm.lesson.layers import central_differences, relative_error
from vae_ldm.lesson.patches import add_noise
from vae_ldm.lesson.vae import Vae


def test_every_weights_gradient_agrees_with_central_differences(material):
    model, pixels = PlainAutoencoder(seed=1), material.four.pixels
    terms = model.learn(pixels, np.random.default_rng(0))

    def loss():
        return float(squared_error(model.reconstruct(pixels), pixels).mean())

    assert terms["loss"] == loss()
    for parameter in model.parameters():
        assert relative_error(parameter.gradient, central_differences(loss, parameter.value)) < 1e-6


def test_squared_error_is_summed_over_a_patch():
    pixels = np.zeros((2, 25))
    reconstruction = np.stack([np.full(25, 0.1), np.arange(25) / 25])
    np.testing.assert_allclose(squared_error(reconstruction, pixels), [0.25, (np.arange(25) ** 2).sum() / 625])
    gradient = central_differences(lambda: float(squared_error(reconstruction, pixels).mean()), reconstruction)
    assert relative_error(squared_error_gradient(reconstruction, pixels), gradient) < 1e-6


def test_it_writes_25_numbers_as_2_and_beats_the_best_linear_code(autoencoder, material):
    validation = material.validation.pixels
    assert autoencoder.encode(validation).shape == (len(validation), 2)
    assert autoencoder.reconstruct(validation).shape == validation.shape
    error = squared_error(autoencoder.reconstruct(validation), validation).mean()
    assert error < linear_code_error(material.train.pixels, validation) / 3


def test_it_removes_noise_that_it_was_never_trained_on(autoencoder, material):
    clean = material.clean.pixels
    dirty = add_noise(clean, 0.15, np.random.default_rng(0))
    assert rms(autoencoder.reconstruct(dirty), clean) < 0.7 * rms(dirty, clean)


def test_neighbours_are_of_a_kind_and_midpoints_of_codes_beat_those_of_pixels(autoencoder, material):
    assert same_kind(autoencoder, material.validation, material.train) > 0.95
    assert halfway(autoencoder, material.meter) > halfway(None, material.meter) + 0.2


def test_training_is_the_same_again_and_never_of_another_seed(material):
    def trained(seed):
        model = PlainAutoencoder(seed=0)
        history = fit(model, material.train.pixels, num_steps=5, seed=seed)
        return [terms["loss"] for terms in history]

    assert trained(0) == trained(0)
    assert trained(0) != trained(1)


def test_a_loss_that_is_not_a_number_ends_the_run(material):
    with pytest.raises(RunError, match="not a number at step 1: choose a smaller beta"):
        fit(Vae(beta=1e308, seed=0), 1e9 * material.train.pixels, num_steps=3, seed=0)


def test_principal_components_are_the_widest_orthogonal_directions(material):
    pixels = material.train.pixels
    directions, variances = principal_components(pixels)
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose((pixels @ directions.T).var(axis=0), variances)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(pixels.T, bias=True))[::-1][:2])
    on_a_plane = pixels.mean(axis=0) + np.random.default_rng(0).standard_normal((50, 2)) @ directions
    assert linear_code_error(pixels, on_a_plane) == pytest.approx(0, abs=1e-20)
