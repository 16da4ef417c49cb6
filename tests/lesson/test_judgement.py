import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from vae_ldm.lesson.autoencoder import squared_error
from vae_ldm.lesson.judgement import fitted_gaussian, judge, light_correlation, nearest_index, posterior, same_kind
from vae_ldm.lesson.vae import Vae
from vae_ldm.models.latent_scaling import latent_statistics


def test_an_autoencoders_posterior_is_a_point(autoencoder, material):
    mean, std = posterior(autoencoder, material.four.pixels)
    np.testing.assert_array_equal(mean, autoencoder.encode(material.four.pixels))
    np.testing.assert_array_equal(std, np.zeros((4, 2)))


def test_the_fitted_gaussian_is_what_the_package_folds_into_an_autoencoder(vae, material):
    pixels = material.train.pixels
    moments = torch.tensor(np.concatenate(vae.encode(pixels), axis=1))[:, :, None, None]
    statistics = latent_statistics([DiagonalGaussianDistribution(moments)])
    mean, std = fitted_gaussian(vae, pixels)
    np.testing.assert_allclose(mean, statistics.mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(std, statistics.std.numpy(), rtol=1e-6)

    draws = np.random.default_rng(0)
    m, s = posterior(vae, pixels)
    samples = np.concatenate([m + s * draws.standard_normal(m.shape) for _ in range(50)])
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=0.02)


def test_a_judgement_is_of_validation_patches_without_noise_and_always_the_same(vae, autoencoder, material):
    judgement, again = judge(vae, material.meter), judge(vae, material.meter)
    validation = material.validation.pixels
    assert judgement.reconstruction == pytest.approx(squared_error(vae.reconstruct(validation), validation).mean())
    assert judgement.kl == pytest.approx(vae.losses(validation, np.zeros((len(validation), 2)))[1].mean())
    assert (judgement.prior, judgement.fitted) == (again.prior, again.fitted)
    assert (judgement.beta, judgement.num_active) == (0.1, 2)
    plain = judge(autoencoder, material.meter)
    assert (plain.beta, plain.kl, plain.num_active) == (None, 0.0, 2)


def test_active_units_are_those_whose_mean_moves(material):
    model = Vae(beta=0.1, seed=0)
    model.mean_head.weight.value[:, 1] = 0
    assert judge(model, material.meter).num_active == 1


def test_the_nearest_is_found_and_its_kind_compared(material):
    points = np.array([[0.0, 0.1], [1.0, 0.9], [0.0, 0.1]])
    np.testing.assert_array_equal(nearest_index(points, np.array([[1.0, 1.0], [0.0, 0.0]])), [1, 0, 1])
    assert same_kind(None, material.validation, material.train) > 0.99
    untrained = Vae(beta=0, seed=0)
    untrained.mean_head.weight.value[:] = 0
    assert same_kind(untrained, material.validation, material.train) == pytest.approx(0.2, abs=0.01)


def test_light_correlation_is_1_for_a_model_that_codes_the_mean_grey(material):
    class Light(Vae):
        def encode(self, pixels):
            return np.stack([-pixels.mean(axis=1), 0 * pixels[:, 0]], axis=1), np.zeros((len(pixels), 2))

    assert light_correlation(Light(beta=0, seed=0), material.validation.pixels) == pytest.approx(1)
