"""Latents to a few bytes at a choice of steps: a grid and a model of its symbols for each."""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from vae_ldm.latent_space.entropy_coding import DamagedMessageError, decode_symbols, encode_symbols, message_shape
from vae_ldm.latent_space.quantization import STEPS, dequantize, quantize
from vae_ldm.latent_space.symbol_model import SymbolModel


@dataclass(frozen=True, eq=False)
class LatentCoder:
    """Fitted once on some pictures; an archive keeps it beside its messages, which are nothing without it."""

    steps: tuple[float, ...]
    """From coarse to fine."""
    models: tuple[SymbolModel, ...]
    """One a step."""

    @classmethod
    def fit(cls, latents: Sequence[Tensor], steps: Sequence[float] = STEPS) -> Self:
        """The coder that suits latents [C, h, w], each picture of its own size.

        Raises UnquantizableError where they are not finite.
        """
        models = [SymbolModel.fit([quantize(one, step).numpy() for one in latents]) for step in steps]
        return cls(tuple(steps), tuple(models))

    def quantized(self, latents: Tensor, number: int) -> Tensor:
        """What a message at step `number` gives back of latents [C, h, w]. Raises UnquantizableError."""
        return dequantize(quantize(latents, self.steps[number]), self.steps[number])

    def encode(self, latents: Tensor, number: int) -> bytes:
        """A message of latents [C, h, w] on the CPU at step `number`. Raises UnquantizableError."""
        symbols = quantize(latents, self.steps[number]).numpy()
        return bytes([number]) + encode_symbols(symbols, self.models[number])

    def decode(self, message: bytes) -> Tensor:
        """Latents float32 [C, h, w], the same on every machine. Raises DamagedMessageError."""
        number = self.step_number(message)
        symbols = decode_symbols(message[1:], self.models[number])
        return dequantize(torch.from_numpy(symbols), self.steps[number])

    def step_number(self, message: bytes) -> int:
        """Which step a message is of. Raises DamagedMessageError."""
        if not message or message[0] >= len(self.steps):
            raise DamagedMessageError("its step is not one of this coder's")
        return message[0]

    def shape(self, message: bytes) -> tuple[int, int, int]:
        """Channels, height and width of a message's latents, which are not decoded. Raises DamagedMessageError."""
        self.step_number(message)
        return message_shape(message[1:])

    def as_json(self) -> dict[str, Any]:
        """All that `from_json` needs."""
        whole = b"".join(part.tobytes() for model in self.models for part in (model.weights, model.forms))
        weights, forms = self.models[0].weights.shape, self.models[0].forms.shape
        return {
            "steps": list(self.steps),
            "shapes": [list(weights), list(forms)],
            "models": base64.b85encode(zlib.compress(whole, 9)).decode(),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """The coder that `as_json` wrote down."""
        weights, forms = (tuple(shape) for shape in stored["shapes"])
        whole = np.frombuffer(zlib.decompress(base64.b85decode(stored["models"])), np.uint8)
        rows = whole.reshape(len(stored["steps"]), -1)
        split = int(np.prod(weights))
        models = (SymbolModel(row[:split].reshape(weights), row[split:].reshape(forms)) for row in rows)
        return cls(tuple(stored["steps"]), tuple(models))
