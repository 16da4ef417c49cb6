"""Measures of a trained model: squared error, nats, active units, random draws, neighbours and midpoints."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_ldm.lesson.autoencoder import NUM_LATENTS, PlainAutoencoder, squared_error
from vae_ldm.lesson.holes import DrawScore, HoleMeter
from vae_ldm.lesson.patches import Array, Patches
from vae_ldm.lesson.vae import Vae, kl_divergence

NUM_DRAWS = 1000
ACTIVE_VARIANCE = 0.01

Model = PlainAutoencoder | Vae


def posterior(model: Model, pixels: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each patch's latents, [N, 2] each; a plain autoencoder's deviation is zero."""
    if isinstance(model, PlainAutoencoder):
        latents = model.encode(pixels)
        return latents, np.zeros_like(latents)
    mean, logvar = model.encode(pixels)
    return mean, np.exp(logvar / 2)


def fitted_gaussian(model: Model, pixels: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the latents of all `pixels`, [2] each.

    Var[z] = Var[m] + E[s^2], the law of total variance. Draws from this Gaussian are fair to an autoencoder,
    because nothing told it where to put its codes.
    """
    mean, std = posterior(model, pixels)
    return mean.mean(axis=0), np.sqrt(mean.var(axis=0) + (std**2).mean(axis=0))


@dataclass(frozen=True, eq=False)
class Judgement:
    """One trained model in numbers; `beta` is None for the plain autoencoder."""

    model: Model
    beta: float | None
    reconstruction: float
    """Mean squared error of validation patches through the posterior's mean, summed over a patch."""
    kl: float
    """Nats a patch, mean over validation patches."""
    num_active: int
    """Latents whose posterior mean moves from patch to patch: variance above 0.01 (Burda 2016, section 5.2)."""
    prior: DrawScore
    """The score of draws from N(0, 1)."""
    fitted: DrawScore
    """The score of draws from the Gaussian that is fitted to the latents of the training patches."""


def judge(model: Model, meter: HoleMeter) -> Judgement:
    """All measures of a model, always with the same random draws."""
    draws = np.random.default_rng(0).standard_normal((NUM_DRAWS, NUM_LATENTS))
    mean, std = posterior(model, meter.validation)
    centre, spread = fitted_gaussian(model, meter.train)
    return Judgement(
        model=model,
        beta=model.beta if isinstance(model, Vae) else None,
        reconstruction=float(squared_error(model.reconstruct(meter.validation), meter.validation).mean()),
        kl=float(kl_divergence(mean, 2 * np.log(std)).sum(axis=1).mean()) if isinstance(model, Vae) else 0.0,
        num_active=int((mean.var(axis=0) > ACTIVE_VARIANCE).sum()),
        prior=meter.score(model.decode(draws)),
        fitted=meter.score(model.decode(centre + spread * draws)),
    )


def same_kind(model: Model | None, patches: Patches, known: Patches) -> float:
    """Share of patches whose nearest known patch, by code or (None) by pixels, is of their kind."""
    points, others = (each.pixels if model is None else posterior(model, each.pixels)[0] for each in (patches, known))
    return float((known.kinds[nearest_index(points, others)] == patches.kinds).mean())


def nearest_index(points: Array, others: Array) -> NDArray[np.int64]:
    """Which of `others` [M, D] is nearest to each of `points` [N, D]: int [N]."""
    return ((others**2).sum(1) - 2 * points @ others.T).argmin(axis=1)


def halfway(model: Model | None, meter: HoleMeter) -> float:
    """Share of midpoints of two validation patches, of their codes or (None) of their pixels, that look real."""
    pixels = meter.validation
    other = np.random.default_rng(3).permutation(len(pixels))
    if model is None:
        return float(meter.looks_real((pixels + pixels[other]) / 2).mean())
    codes = posterior(model, pixels)[0]
    return float(meter.looks_real(model.decode((codes + codes[other]) / 2)).mean())


def light_correlation(model: Model, pixels: Array) -> float:
    """How closely the latent that varies most follows the mean grey of patches: |correlation|, in [0, 1]."""
    codes = posterior(model, pixels)[0]
    code = codes[:, codes.var(axis=0).argmax()]
    return float(abs(np.corrcoef(code, pixels.mean(axis=1))[0, 1]))


def rms(pixels: Array, others: Array) -> float:
    """Root mean squared difference of a pixel."""
    return float(np.sqrt(((pixels - others) ** 2).mean()))
