"""Layers that compute their own gradients, and Adam, in NumPy alone.

Arrays are float64 and hold one patch a row. `forward` remembers what `backward` needs. `backward` takes the gradient
of the loss with respect to the layer's output, keeps the gradient of its weights and returns the gradient of its
input, which is one step of the chain rule (Rumelhart 1986).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vae_ldm.lesson.patches import Array


@dataclass(eq=False)
class Parameter:
    """An array to train, changed in place, and the gradient of the last loss with respect to it, same shape."""

    value: Array
    gradient: Array


class Layer(Protocol):
    """[N, inputs] -> [N, outputs], and the gradient the other way."""

    def forward(self, inputs: Array) -> Array: ...

    def backward(self, gradient: Array) -> Array: ...

    def parameters(self) -> list[Parameter]: ...


class Dense:
    """y = x W + b. With G = dL/dy: dL/dW = x^T G, dL/db = sum over patches of G, dL/dx = G W^T."""

    def __init__(self, num_inputs: int, num_outputs: int, rng: np.random.Generator) -> None:
        # A ReLU halves the mean square of what it gets; a variance of 2 / inputs makes up for it (He 2015, eq. 10).
        weight = rng.standard_normal((num_inputs, num_outputs)) * np.sqrt(2 / num_inputs)
        self.weight = Parameter(weight, np.zeros_like(weight))
        self.bias = Parameter(np.zeros(num_outputs), np.zeros(num_outputs))

    def forward(self, inputs: Array) -> Array:
        self._inputs = inputs
        return inputs @ self.weight.value + self.bias.value

    def backward(self, gradient: Array) -> Array:
        self.weight.gradient = self._inputs.T @ gradient
        self.bias.gradient = gradient.sum(axis=0)
        return gradient @ self.weight.value.T

    def parameters(self) -> list[Parameter]:
        return [self.weight, self.bias]


class Relu:
    """y = max(x, 0); dL/dx = G where x > 0, else 0."""

    def forward(self, inputs: Array) -> Array:
        self._is_positive = inputs > 0
        return inputs * self._is_positive

    def backward(self, gradient: Array) -> Array:
        return gradient * self._is_positive

    def parameters(self) -> list[Parameter]:
        return []


class Sigmoid:
    """y = 1 / (1 + e^-x), in (0, 1) as a grey value is; dL/dx = G y (1 - y)."""

    def forward(self, inputs: Array) -> Array:
        # The same function, written so that no exponential overflows.
        self._outputs = 0.5 + 0.5 * np.tanh(inputs / 2)
        return self._outputs

    def backward(self, gradient: Array) -> Array:
        return gradient * self._outputs * (1 - self._outputs)

    def parameters(self) -> list[Parameter]:
        return []


class Chain:
    """Layers one after another; gradients go through them in reverse."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def forward(self, inputs: Array) -> Array:
        for layer in self.layers:
            inputs = layer.forward(inputs)
        return inputs

    def backward(self, gradient: Array) -> Array:
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        return gradient

    def parameters(self) -> list[Parameter]:
        return [parameter for layer in self.layers for parameter in layer.parameters()]


class Adam:
    """Steps of about the learning rate in every weight, against the sign of its mean gradient (Kingma & Ba 2015)."""

    def __init__(self, parameters: list[Parameter], *, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.parameters = parameters
        self.betas = betas
        self.num_steps = 0
        # All weights in one row: a few operations on a long array are faster than many on short ones.
        num_weights = sum(parameter.value.size for parameter in parameters)
        self._mean, self._square = np.zeros(num_weights), np.zeros(num_weights)

    def step(self, learning_rate: float) -> None:
        """Move every parameter once, by the gradient it holds (their algorithm 1)."""
        self.num_steps += 1
        first, second = self.betas
        gradient = np.concatenate([parameter.gradient.ravel() for parameter in self.parameters])
        self._mean += (1 - first) * (gradient - self._mean)
        self._square += (1 - second) * (gradient**2 - self._square)
        # Both averages began at zero; the divisions undo it.
        mean = self._mean / (1 - first**self.num_steps)
        square = self._square / (1 - second**self.num_steps)
        change = learning_rate * mean / (np.sqrt(square) + 1e-8)
        start = 0
        for parameter in self.parameters:
            stop = start + parameter.value.size
            parameter.value -= change[start:stop].reshape(parameter.value.shape)
            start = stop


def central_differences(loss: Callable[[], float], values: Array, *, step: float = 1e-5) -> Array:
    """The gradient of `loss` with respect to `values`, by nudging each up and down: slow, but simple.

    (L(w + step) - L(w - step)) / (2 step), whose error shrinks with the square of `step`. `values` is changed and put
    back, so `loss` must read that very array.
    """
    gradient = np.empty_like(values)
    for index, value in np.ndenumerate(values):
        values[index] = value + step
        above = loss()
        values[index] = value - step
        below = loss()
        values[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


def relative_error(found: Array, expected: Array) -> float:
    """|found - expected| / (|found| + |expected|), Euclidean lengths: 0 where they agree, 1 where one is zero."""
    lengths = float(np.linalg.norm(found) + np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / lengths if lengths else 0.0
