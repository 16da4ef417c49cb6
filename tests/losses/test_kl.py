import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as kl_of_distributions

from vae_ldm.losses.kl import kl_divergence


def parameters():
    return torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(0))


def test_kl_agrees_with_torch_distributions():
    posterior = DiagonalGaussianDistribution(parameters())
    ours = Independent(Normal(posterior.mean, posterior.std), 3)
    unit = Independent(Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.std)), 3)
    torch.testing.assert_close(kl_divergence(posterior), kl_of_distributions(ours, unit))


def test_kl_of_the_unit_gaussian_is_zero_and_of_a_shifted_one_half_its_square():
    moments = torch.zeros(2, 4, 3, 3)
    moments[1, :2] = 2.0
    torch.testing.assert_close(
        kl_divergence(DiagonalGaussianDistribution(moments)), torch.tensor([0.0, 2 * 9 * 2.0**2 / 2])
    )


def test_kl_of_a_bfloat16_posterior_is_summed_in_float32():
    low = parameters().bfloat16()
    torch.testing.assert_close(
        kl_divergence(DiagonalGaussianDistribution(low)), kl_divergence(DiagonalGaussianDistribution(low.float()))
    )


def test_kl_pulls_the_posterior_towards_the_unit_gaussian():
    moments = parameters().requires_grad_()
    kl_divergence(DiagonalGaussianDistribution(moments)).sum().backward()
    mean, logvar = moments.detach().chunk(2, dim=1)
    expected = torch.cat([mean, (logvar.exp() - 1) / 2], dim=1)
    torch.testing.assert_close(moments.grad, expected)
