"""The variational autoencoder (Kingma & Welling 2013): each patch becomes a small cloud of latents, not a point.

The encoder gives the mean m and the log-variance v = ln s^2 of a Gaussian per latent, q(z|x) = N(m, s^2). The loss of
one patch x, with its reconstruction x' = decode(z), is

    L = |x' - x|^2 + beta KL(q(z|x) || N(0, 1)),     z = m + s eps,  eps ~ N(0, 1).

With beta = 2 c^2 it is, up to a constant factor and summand, the negative evidence lower bound of their eq. 3 for a
decoder p(x|z) = N(x', c^2): -ln p(x|z) = |x' - x|^2 / (2 c^2) + const. Higgins 2017 chose beta freely.

The KL term, per latent. For two Gaussians, KL = E_q[ln q(z) - ln p(z)]; with p = N(0, 1)

    ln q(z) = -1/2 ln 2 pi - 1/2 v - (z - m)^2 / (2 s^2)        E_q = -1/2 ln 2 pi - 1/2 v - 1/2
    ln p(z) = -1/2 ln 2 pi - z^2 / 2                            E_q = -1/2 ln 2 pi - (m^2 + s^2) / 2

because E_q (z - m)^2 = s^2 and E_q z^2 = m^2 + s^2. The difference is KL = -1/2 (1 + v - m^2 - s^2) (their appendix B),
and as d s^2 / d v = s^2:

    dKL/dm = m,     dKL/dv = (s^2 - 1) / 2:       m is pulled to 0, and s to 1.

The sample. eps is drawn first and is a constant from then on, so z is an ordinary function of m and v (their
section 2.4). With s = e^(v/2), ds/dv = s / 2. With g = dL/dz, which the decoder's backward pass gives:

    dL/dm = g dz/dm = g,     dL/dv = g dz/ds ds/dv = g eps s / 2.

Both paths to the encoder, through the sample and through the KL term, are added.
"""

from typing import Protocol

import numpy as np

from vae_ldm.lesson.autoencoder import (
    NUM_LATENTS,
    WIDTHS,
    Terms,
    new_decoder,
    new_encoder_body,
    squared_error,
    squared_error_gradient,
)
from vae_ldm.lesson.layers import Dense, Parameter
from vae_ldm.lesson.patches import Array


def kl_divergence(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, e^logvar) || N(0, 1)) in nats, of each latent: [N, 2]; a patch's is the sum of its row."""
    return -0.5 * (1 + logvar - mean**2 - np.exp(logvar))


class Sampling(Protocol):
    """From a posterior to a latent, and the gradient back to the posterior."""

    def forward(self, mean: Array, logvar: Array, noise: Array) -> Array: ...

    def backward(self, gradient: Array) -> tuple[Array, Array]: ...


class Reparameterised:
    """z = m + s eps, with eps a constant: gradients reach m and v."""

    def forward(self, mean: Array, logvar: Array, noise: Array) -> Array:
        self._scaled_noise = np.exp(logvar / 2) * noise
        return mean + self._scaled_noise

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return gradient, gradient * self._scaled_noise / 2


class PlainDraw:
    """The same z without a record of the m and v that it came from.

    The chain rule then takes z for a constant, and the gradients of m and v are zero.
    """

    def forward(self, mean: Array, logvar: Array, noise: Array) -> Array:
        self._shape = mean.shape
        return mean + np.exp(logvar / 2) * noise

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return np.zeros(self._shape), np.zeros(self._shape)


class Vae:
    """encode: pixels [N, 25] -> mean and log-variance, [N, 2] each. decode: latents [N, 2] -> pixels [N, 25]."""

    def __init__(self, *, beta: float, seed: int, sampling: Sampling | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.beta = beta
        self.body = new_encoder_body(rng)
        self.mean_head = Dense(WIDTHS[-1], NUM_LATENTS, rng)
        self.decoder = new_decoder(rng)
        # Drawn last: a VAE and an autoencoder of one seed start from the same weights.
        self.logvar_head = Dense(WIDTHS[-1], NUM_LATENTS, rng)
        self.sampling = sampling or Reparameterised()

    def encoder_parameters(self) -> list[Parameter]:
        return self.body.parameters() + self.mean_head.parameters() + self.logvar_head.parameters()

    def parameters(self) -> list[Parameter]:
        return self.encoder_parameters() + self.decoder.parameters()

    def encode(self, pixels: Array) -> tuple[Array, Array]:
        features = self.body.forward(pixels)
        return self.mean_head.forward(features), self.logvar_head.forward(features)

    def decode(self, latents: Array) -> Array:
        return self.decoder.forward(latents)

    def reconstruct(self, pixels: Array) -> Array:
        """What the decoder makes of the posterior's mean, without noise, same shape."""
        return self.decode(self.encode(pixels)[0])

    def losses(self, pixels: Array, noise: Array) -> tuple[Array, Array]:
        """Squared error and KL divergence of each patch, [N] each, with `noise` [N, 2] in the place of eps."""
        mean, logvar = self.encode(pixels)
        reconstruction = self.decode(self.sampling.forward(mean, logvar, noise))
        return squared_error(reconstruction, pixels), kl_divergence(mean, logvar).sum(axis=1)

    def learn(self, pixels: Array, rng: np.random.Generator) -> Terms:
        """Gradients of L, mean over the batch, with fresh noise from `rng`."""
        return self.learn_with(pixels, rng.standard_normal((len(pixels), NUM_LATENTS)))

    def learn_with(self, pixels: Array, noise: Array) -> Terms:
        """Gradients of L, mean over the batch, with `noise` [N, 2] in the place of eps."""
        mean, logvar = self.encode(pixels)
        reconstruction = self.decode(self.sampling.forward(mean, logvar, noise))

        through_sample = self.decoder.backward(squared_error_gradient(reconstruction, pixels))
        to_mean, to_logvar = self.sampling.backward(through_sample)
        weight = self.beta / len(pixels)
        to_mean = to_mean + weight * mean
        to_logvar = to_logvar + weight * (np.exp(logvar) - 1) / 2
        self.body.backward(self.mean_head.backward(to_mean) + self.logvar_head.backward(to_logvar))

        squared = float(squared_error(reconstruction, pixels).mean())
        kl = float(kl_divergence(mean, logvar).sum(axis=1).mean())
        return {"loss": squared + self.beta * kl, "reconstruction": squared, "kl": kl}


def encoder_gradients(pixels: Array) -> dict[str, float]:
    """Length of the encoder's gradient from the squared error alone, with and without the reparameterisation."""
    lengths = {}
    samplings = {"z = m + s eps, eps held constant:": None, "z as drawn, m and s forgotten:": PlainDraw()}
    for name, sampling in samplings.items():
        model = Vae(beta=0.0, seed=0, sampling=sampling)
        model.learn(pixels, np.random.default_rng(0))
        squares = sum(float((parameter.gradient**2).sum()) for parameter in model.encoder_parameters())
        lengths[name] = float(np.sqrt(squares))
    return lengths
