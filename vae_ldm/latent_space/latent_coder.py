"""Latents to a few bytes at a choice of steps: a grid and a model of its symbols for each."""

import base64
import math
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

_MOST_STEPS, _MOST_CHANNELS = 256, 4096  # a step is stored in one byte
_FACTORS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, eq=False)
class LatentCoder:
    """Fitted once on some pictures; an archive keeps it beside its messages, which are nothing without it."""

    steps: tuple[float, ...]
    """The quantisation steps, from coarse to fine."""
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

    def decode(self, message: bytes, picture_size: tuple[int, int], downsample_factor: int | None) -> Tensor:
        """Latents float32 [C, h, w] of a picture of (height, width) px, the same on every machine.

        Raises DamagedMessageError, and before anything is allocated where the message is of a picture of another size:
        a side of n latents stands for n * `downsample_factor` px, the last of which may be padding. With None any power
        of two up to 64 may be the factor.
        """
        number = self.step_number(message)
        _check_size(self.shape(message), picture_size, downsample_factor)
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
        """The coder that `as_json` wrote down.

        Raises ValueError, LookupError, TypeError or zlib.error for any other JSON. Sizes are compared before anything
        is unpacked, so a short text takes no more memory than the coder that it describes.
        """
        steps = tuple(float(step) for step in stored["steps"])
        if not 1 <= len(steps) <= _MOST_STEPS or not all(0 < step < math.inf for step in steps):
            raise ValueError(f"{len(steps)} steps are not from 1 to {_MOST_STEPS}, or not all of them above 0")
        channels = stored["shapes"][0][0]
        shapes = SymbolModel.shapes(channels)
        if [list(shape) for shape in shapes] != stored["shapes"] or not 1 <= channels <= _MOST_CHANNELS:
            raise ValueError(f"shapes {stored['shapes']} are those of no model of symbols")
        weights, forms = shapes
        split, size = math.prod(weights), math.prod(weights) + math.prod(forms)
        unpacked = zlib.decompressobj()
        whole = unpacked.decompress(base64.b85decode(stored["models"]), len(steps) * size + 1)
        if len(whole) != len(steps) * size:
            raise ValueError(f"the models hold {len(whole)} bytes or more instead of {len(steps) * size}")
        rows = np.frombuffer(whole, np.uint8).reshape(len(steps), size)
        models = (SymbolModel.stored(row[:split].reshape(weights), row[split:].reshape(forms)) for row in rows)
        return cls(steps, tuple(models))


def _check_size(shape: tuple[int, int, int], picture_size: tuple[int, int], factor: int | None) -> None:
    height, width = picture_size
    factors = _FACTORS if factor is None else (factor,)
    if shape[1:] not in [(-(-height // each), -(-width // each)) for each in factors]:
        raise DamagedMessageError(
            f"{shape[1]} x {shape[2]} latents are not those of a picture of {width}x{height} pixels"
        )
