"""The plain autoencoder: 25 numbers through a bottleneck of 2 numbers and back."""

from typing import Protocol

import numpy as np

from vae_ldm.errors import RunError
from vae_ldm.lesson.layers import Adam, Chain, Dense, Parameter, Relu, Sigmoid
from vae_ldm.lesson.patches import NUM_PIXELS, Array

NUM_LATENTS = 2
WIDTHS = (64, 32)

LEARNING_RATE = 1e-2
BATCH_SIZE = 100

Terms = dict[str, float]


class Model(Protocol):
    """What `fit` trains."""

    def parameters(self) -> list[Parameter]: ...

    def learn(self, pixels: Array, rng: np.random.Generator) -> Terms:
        """Fill every parameter's gradient from one batch; gives the loss and its terms, means over the batch."""


class PlainAutoencoder:
    """encode: pixels [N, 25] -> latents [N, 2]. decode: latents [N, 2] -> pixels [N, 25] in (0, 1)."""

    def __init__(self, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.encoder = Chain(new_encoder_body(rng), Dense(WIDTHS[-1], NUM_LATENTS, rng))
        self.decoder = new_decoder(rng)

    def parameters(self) -> list[Parameter]:
        return self.encoder.parameters() + self.decoder.parameters()

    def encode(self, pixels: Array) -> Array:
        return self.encoder.forward(pixels)

    def decode(self, latents: Array) -> Array:
        return self.decoder.forward(latents)

    def reconstruct(self, pixels: Array) -> Array:
        """What the decoder makes of the latents of `pixels`, same shape."""
        return self.decode(self.encode(pixels))

    def learn(self, pixels: Array, rng: np.random.Generator) -> Terms:
        """Gradients of L, the mean squared error of the batch, through decoder and encoder."""
        reconstruction = self.reconstruct(pixels)
        self.encoder.backward(self.decoder.backward(squared_error_gradient(reconstruction, pixels)))
        return {"loss": float(squared_error(reconstruction, pixels).mean())}


def new_encoder_body(rng: np.random.Generator) -> Chain:
    """[N, 25] -> [N, 32] features, before the head that makes latents of them."""
    wide, narrow = WIDTHS
    return Chain(Dense(NUM_PIXELS, wide, rng), Relu(), Dense(wide, narrow, rng), Relu())


def new_decoder(rng: np.random.Generator) -> Chain:
    """[N, 2] -> [N, 25] in (0, 1): the encoder in reverse, with a sigmoid at the end."""
    wide, narrow = WIDTHS
    body = Chain(Dense(NUM_LATENTS, narrow, rng), Relu(), Dense(narrow, wide, rng), Relu())
    return Chain(body, Dense(wide, NUM_PIXELS, rng), Sigmoid())


def squared_error(reconstruction: Array, pixels: Array) -> Array:
    """Squared error summed over the 25 pixels, one value per patch: [N].

    25 times the mean squared error. Summed, because the KL term is summed over the latents: both count per patch.
    """
    return ((reconstruction - pixels) ** 2).sum(axis=1)


def squared_error_gradient(reconstruction: Array, pixels: Array) -> Array:
    """Gradient of `squared_error(...).mean()` with respect to the reconstruction: 2 (x' - x) / N, [N, 25]."""
    return 2 * (reconstruction - pixels) / len(pixels)


def fit(model: Model, pixels: Array, *, num_steps: int, seed: int) -> list[Terms]:
    """Train in place on random batches with Adam, the learning rate falling along a cosine; the terms of every step.

    Raises RunError where the loss is no longer a number.
    """
    rng = np.random.default_rng(seed)
    optimizer = Adam(model.parameters())
    history = []
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(num_steps):
            batch = pixels[rng.integers(len(pixels), size=BATCH_SIZE)]
            terms = model.learn(batch, rng)
            if not np.isfinite(terms["loss"]):
                raise RunError(f"the loss is not a number at step {step + 1}: choose a smaller beta")
            optimizer.step(LEARNING_RATE * (1 + np.cos(np.pi * step / num_steps)) / 2)
            history.append(terms)
    return history


def principal_components(pixels: Array) -> tuple[Array, Array]:
    """The two directions in which patches vary most, [2, 25] orthonormal, and their variances along these, [2]."""
    _, singular, directions = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    return directions[:NUM_LATENTS], singular[:NUM_LATENTS] ** 2 / len(pixels)


def linear_code_error(train: Array, pixels: Array) -> float:
    """Mean squared error, summed over a patch, of the best linear code of two numbers: principal components.

    A network with the same bottleneck has to beat it (Bourlard & Kamp 1988).
    """
    directions, _ = principal_components(train)
    mean = train.mean(axis=0)
    projected = mean + (pixels - mean) @ directions.T @ directions
    return float(squared_error(projected, pixels).mean())
