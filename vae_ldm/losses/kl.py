"""How much the posterior says about a picture."""

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


def kl_divergence(posterior: DiagonalGaussianDistribution) -> Tensor:
    """KL(posterior || unit Gaussian) in nats, one value per image: [B].

    Summed over channels and positions (Kingma & Welling 2013, appendix B), so it grows with the number of latents.
    Beside a mean error per pixel it is divided by that number, so that one weight holds at every picture size, crop
    and downsample factor; a weight of the sum (`kl_weight`) tuned at f8 is too strong at f4.
    """
    # Under autocast the posterior is in bfloat16, in which a sum over thousands of terms keeps two digits.
    return DiagonalGaussianDistribution(posterior.parameters.float()).kl()
