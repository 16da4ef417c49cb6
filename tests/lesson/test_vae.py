import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl_divergence
from torch.nn import functional as F

from vae_ldm.lesson.autoencoder import PlainAutoencoder, fit
from vae_ldm.lesson.judgement import judge, posterior
from vae_ldm.lesson.layers import central_differences, relative_error
from vae_ldm.lesson.vae import PlainDraw, Reparameterised, Vae, encoder_gradients, kl_divergence
from vae_ldm.losses.kl import kl_divergence as package_kl_divergence

BETA = 0.3


@pytest.fixture
def batch(material):
    """Pixels and noise for one step."""
    pixels = material.train.pixels[:16]
    return pixels, np.random.default_rng(7).standard_normal((len(pixels), 2))


@pytest.fixture
def posteriors():
    rng = np.random.default_rng(1)
    return rng.standard_normal((6, 2)), rng.uniform(-3, 1, (6, 2))


def test_kl_agrees_with_a_monte_carlo_estimate(posteriors):
    mean, logvar = posteriors
    std = np.exp(logvar / 2)
    eps = np.random.default_rng(0).standard_normal((400_000, 1, 2))
    z = mean + std * eps
    log_ratio = (-0.5 * logvar - (z - mean) ** 2 / (2 * std**2)) - (-(z**2) / 2)
    standard_error = log_ratio.std(axis=0) / np.sqrt(len(eps))
    assert (np.abs(log_ratio.mean(axis=0) - kl_divergence(mean, logvar)) < 5 * standard_error).all()
    assert standard_error.max() < 0.01


def test_kl_agrees_with_torch_and_with_the_packages_own(posteriors):
    mean, logvar = (torch.tensor(array) for array in posteriors)
    ours = kl_divergence(*posteriors)
    expected = torch_kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros(2).double(), 1.0))
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-12)

    pictures = DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1)[:, :, None, None])
    np.testing.assert_allclose(ours.sum(axis=1), package_kl_divergence(pictures).numpy(), rtol=1e-5)


def test_kl_is_zero_for_the_prior_alone(posteriors):
    np.testing.assert_array_equal(kl_divergence(np.zeros((1, 2)), np.zeros((1, 2))), np.zeros((1, 2)))
    assert (kl_divergence(*posteriors) > 0).all()


def test_every_weights_gradient_agrees_with_central_differences(batch):
    pixels, noise = batch[0][:4], batch[1][:4]
    model = Vae(beta=BETA, seed=1)
    terms = model.learn_with(pixels, noise)

    def loss():
        squared, kl = model.losses(pixels, noise)
        return float((squared + BETA * kl).mean())

    assert terms["loss"] == pytest.approx(loss(), rel=1e-12)
    assert len(model.parameters()) == 14
    for parameter in model.parameters():
        assert relative_error(parameter.gradient, central_differences(loss, parameter.value)) < 1e-6


def _torch_losses(weights, pixels, noise):
    """The same VAE as anyone would write it in torch; weights in the order of Vae.parameters()."""
    body, heads, decoder = weights[:4], weights[4:8], weights[8:]
    h = pixels
    for weight, bias in zip(body[::2], body[1::2], strict=True):
        h = F.relu(h @ weight + bias)
    mean, logvar = h @ heads[0] + heads[1], h @ heads[2] + heads[3]
    z = mean + torch.exp(logvar / 2) * noise
    for weight, bias in zip(decoder[:4:2], decoder[1:4:2], strict=True):
        z = F.relu(z @ weight + bias)
    reconstruction = torch.sigmoid(z @ decoder[4] + decoder[5])
    squared = F.mse_loss(reconstruction, pixels, reduction="none").sum(1)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1)
    return squared, kl


def test_losses_and_gradients_are_those_of_torch(batch, vae):
    pixels, noise = batch
    fresh = Vae(beta=BETA, seed=0)
    for model in (fresh, vae):
        weights = [torch.tensor(parameter.value).requires_grad_() for parameter in model.parameters()]
        squared, kl = _torch_losses(weights, torch.tensor(pixels), torch.tensor(noise))
        (squared + model.beta * kl).mean().backward()

        our_squared, our_kl = model.losses(pixels, noise)
        np.testing.assert_allclose(our_squared, squared.detach().numpy(), rtol=1e-5)
        np.testing.assert_allclose(our_kl, kl.detach().numpy(), rtol=1e-5)
        terms = model.learn_with(pixels, noise)
        assert terms["reconstruction"] == pytest.approx(squared.mean().item(), rel=1e-5)
        assert terms["kl"] == pytest.approx(kl.mean().item(), rel=1e-5)
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            np.testing.assert_allclose(parameter.gradient, weight.grad.numpy(), rtol=1e-5, atol=1e-10)


def test_a_plain_draw_gives_the_same_loss_but_the_encoder_no_gradient(batch):
    pixels, noise = batch
    lengths = {}
    for sampling in (Reparameterised(), PlainDraw()):
        model = Vae(beta=0.0, seed=0, sampling=sampling)
        loss = model.learn_with(pixels, noise)["loss"]
        encoder = sum((parameter.gradient**2).sum() for parameter in model.encoder_parameters())
        decoder = sum((parameter.gradient**2).sum() for parameter in model.decoder.parameters())
        lengths[type(sampling)] = (loss, decoder, encoder)
    (loss, decoder, encoder), (plain_loss, plain_decoder, plain_encoder) = lengths.values()
    assert (loss, decoder) == (plain_loss, plain_decoder)
    assert encoder > 0.1
    assert plain_encoder == 0


def test_a_drawn_number_does_not_move_when_the_encoder_does(batch):
    """Why that zero is right: with z held, as whoever is handed a draw holds it, nothing upstream changes the loss."""
    pixels, noise = batch
    model = Vae(beta=0.0, seed=0)
    mean, logvar = model.encode(pixels)
    drawn = model.sampling.forward(mean, logvar, noise)
    weight = model.encoder_parameters()[2].value[:4, :4]

    def loss_of_draw():
        model.encode(pixels)
        return float(((model.decode(drawn) - pixels) ** 2).sum(axis=1).mean())

    assert not central_differences(loss_of_draw, weight).any()
    assert central_differences(lambda: float(model.losses(pixels, noise)[0].mean()), weight).any()


@pytest.mark.parametrize(("draw", "reaches_encoder"), [("rsample", True), ("sample", False)])
def test_torch_says_the_same_of_its_draws(draw, reaches_encoder):
    mean = torch.zeros(3, 2, requires_grad=True)
    weight = torch.ones(2, requires_grad=True)
    (getattr(Normal(mean, torch.ones(3, 2)), draw)() * weight).square().sum().backward()
    assert weight.grad.abs().sum() > 0
    assert (mean.grad is not None) == reaches_encoder


def test_a_vae_and_an_autoencoder_of_one_seed_begin_alike(material):
    pixels = material.four.pixels
    np.testing.assert_array_equal(Vae(beta=1, seed=4).reconstruct(pixels), PlainAutoencoder(seed=4).reconstruct(pixels))


def test_clouds_resemble_the_prior_and_its_draws_decode_better_than_an_autoencoders(vae, autoencoder, material):
    mean, std = posterior(vae, material.validation.pixels)
    assert np.abs(mean.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(mean.var(axis=0) + (std**2).mean(axis=0), 1, atol=0.15)
    ours, theirs = judge(vae, material.meter), judge(autoencoder, material.meter)
    assert ours.prior.real > max(theirs.prior.real, theirs.fitted.real) + 0.05


def test_too_much_beta_collapses_the_posterior(material):
    model = Vae(beta=4.0, seed=0)
    fit(model, material.train.pixels, num_steps=500, seed=0)
    judgement = judge(model, material.meter)
    assert judgement.num_active == 0
    assert judgement.kl < 0.01
    assert judgement.prior.coverage == 0
    spread = model.reconstruct(material.validation.pixels).std(axis=0).max()
    assert spread < 0.01, "every patch comes out alike"


def test_the_encoder_learns_nothing_from_a_plain_draw(material):
    with_trick, without = encoder_gradients(material.train.pixels[:50]).values()
    assert with_trick > 0.1
    assert without == 0
