"""Floating-point operations of a training step, and the share of a GPU's peak that a throughput comes to (MFU)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 operations a second by the vendor's data sheets, by a word in the GPU's name; H100 and H200 as SXM."""


def step_flops(loss: Callable[[], Tensor]) -> int:
    """Operations of one forward and backward pass, a multiplication and an addition counted as two.

    What the optimizer does is left out, as usual (Chowdhery 2022, PaLM, appendix B).
    """
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def peak_flops() -> float | None:
    """Peak of this GPU in dense bfloat16; None where there is no GPU, or one that is not in the list."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for word, peak in PEAK_FLOPS.items() if word in name.split() or word in name.split("-")), None)
