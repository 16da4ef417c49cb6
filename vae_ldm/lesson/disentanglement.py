"""What each latent tells about what a patch was drawn from, and whether each latent tells one thing or several.

A patch is drawn from *factors*: its kind, the place and the strength of what is on it. A representation is
disentangled where each factor is told by one latent alone. The mutual information gap measures that (Chen 2018,
"Isolating Sources of Disentanglement in VAEs", eq. 6).
"""

from dataclasses import dataclass

import numpy as np

from vae_ldm.lesson.autoencoder import NUM_LATENTS, fit
from vae_ldm.lesson.judgement import Model, posterior
from vae_ldm.lesson.patches import Array, FactorGrid, draw_factor_grid, draw_patches
from vae_ldm.lesson.vae import Vae

NOTHING = 0.02
"""A latent that tells less of a factor than this share does not count as changing it."""
BY_SEVERAL = 0.6
"""A factor is changed by every latent that tells at least this share of what the best latent tells."""

PRINT_BETAS = (0.01, 0.1, 0.4)
PRINT_SEEDS = (2, 0, 1)
"""Random starts. The picture shows the first, after which both latents tell both factors at the smallest beta."""

_NUM_POINTS = 2000

Told = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Explained:
    """A trained VAE and what its latents tell about each factor."""

    model: Vae
    told: Told


def information_told(model: Model, grid: FactorGrid) -> Told:
    """Share of each factor that each latent tells: factor -> I(z_j; v_k) / H(v_k) for the latents, [2] in [0, 1].

    1: whoever knows this latent knows the factor's level; 0: the latent says nothing about it. The posteriors are
    Gaussians and the factors are on a grid, so q(z_j | v_k) is a mixture of Gaussians that is written down exactly,
    and I(z_j; v_k) = H(z_j) - H(z_j | v_k) is a sum over points of a line. Nothing is drawn at random.
    """
    mean, std = posterior(model, grid.pixels)
    told = {name: np.zeros(NUM_LATENTS) for name in grid.factors}
    for latent in range(NUM_LATENTS):
        density, spacing = _densities(mean[:, latent], std[:, latent])
        for name, levels in grid.factors.items():
            by_level = np.stack([density[levels == level].mean(axis=0) for level in range(levels.max() + 1)])
            information = _entropy(by_level.mean(axis=0), spacing) - _entropy(by_level, spacing).mean()
            told[name][latent] = max(float(information), 0.0) / np.log(len(by_level))
    return told


def mutual_information_gap(told: Told) -> float:
    """Mean over factors of what the best latent tells beyond the second best (Chen 2018, eq. 6), in [0, 1].

    1: every factor is told completely, and by one latent alone. Near 0: each factor is told by several latents, or by
    none; `information_told` says which.
    """
    return float(np.mean([np.ptp(np.sort(shares)[-2:]) for shares in told.values()]))


def changed_by(told: Told) -> list[list[str]]:
    """The factors that each latent changes, for z1 and for z2: one, several, or none where the latent is given up."""
    return [
        [name for name, shares in told.items() if shares[latent] >= max(NOTHING, BY_SEVERAL * shares.max())]
        for latent in range(NUM_LATENTS)
    ]


def explain(model: Vae, grid: FactorGrid) -> Explained:
    """The model with what its latents tell about the factors of `grid`."""
    return Explained(model, information_told(model, grid))


def vaes_of_print(num_patches: int, *, num_steps: int) -> dict[float, list[Explained]]:
    """VAEs that learn patches of print alone, which have two factors for two latents: beta -> one VAE a start."""
    pixels = draw_patches(num_patches, seed=0, only_kinds=("print",)).pixels
    grid = draw_factor_grid(("print",))
    explained: dict[float, list[Explained]] = {}
    for beta in PRINT_BETAS:
        explained[beta] = []
        for seed in PRINT_SEEDS:
            model = Vae(beta=beta, seed=seed)
            fit(model, pixels, num_steps=num_steps, seed=seed)
            explained[beta].append(explain(model, grid))
    return explained


def _densities(mean: Array, std: Array) -> tuple[Array, float]:
    """N(mean, std^2) of every patch at equally spaced points, [N, points], and the distance between points."""
    points = np.linspace((mean - 5 * std).min(), (mean + 5 * std).max(), _NUM_POINTS)
    spacing = float(points[1] - points[0])
    std = np.maximum(std, spacing)[:, None]  # a narrower one would fall between two points
    return np.exp(-0.5 * ((points - mean[:, None]) / std) ** 2) / (np.sqrt(2 * np.pi) * std), spacing


def _entropy(density: Array, spacing: float) -> Array:
    """Differential entropy in nats of densities along the last axis, given at points that far apart."""
    logarithm = np.log(np.where(density > 0, density, 1.0))
    return -(density * logarithm).sum(axis=-1) * spacing
