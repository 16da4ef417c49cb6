"""A network over a large picture, tile by tile, without seams.

diffusers' own tiling leaves a remainder at the right and lower border, of a few pixels at worst, whose group norms
see next to nothing. Here all tiles are whole: they are spread evenly, overlap and fade into each other.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def tiled(
    function: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    tile: int,
    overlap: int,
    in_step: int = 1,
    out_step: int = 1,
) -> Tensor:
    """`function` of inputs [B, C, H, W], computed on tiles: [B, *, H / in_step * out_step, W / in_step * out_step].

    `tile` and the least `overlap` count steps: an encoder of factor 8 has in_step 8 and out_step 1, its decoder the
    reverse. A function that uses no neighbours gives the result of a single call.
    """
    assert 0 < overlap < tile, f"tiles of {tile} cannot overlap by {overlap}"
    height, width = (side // in_step for side in inputs.shape[-2:])
    total = weights = None
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            bottom, right = min(top + tile, height), min(left + tile, width)
            part = function(inputs[..., top * in_step : bottom * in_step, left * in_step : right * in_step])
            if total is None or weights is None:
                total = part.new_zeros(*part.shape[:2], height * out_step, width * out_step, dtype=torch.float32)
                weights = torch.zeros_like(total[:1, :1])
            rows, columns = (_fade(end - start, overlap, out_step) for start, end in ((top, bottom), (left, right)))
            fade = (rows[:, None] * columns).to(total)
            place = (..., slice(top * out_step, bottom * out_step), slice(left * out_step, right * out_step))
            total[place] += part.float() * fade
            weights[place] += fade
    assert total is not None
    assert weights is not None
    return total / weights


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """The positions at which tiles begin; the last tile ends with the picture."""
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    last = max(0, length - tile)
    return [round(last * number / max(1, count - 1)) for number in range(count)]


def _fade(length: int, overlap: int, out_step: int) -> Tensor:
    """Weights [length * out_step] that rise over an overlap and fall again, as a squared sine; never quite 0."""
    position = torch.arange(length * out_step, dtype=torch.float64) + 0.5
    from_edge = torch.minimum(position, length * out_step - position) / (overlap * out_step)
    return torch.sin(from_edge.clamp(max=1) * (math.pi / 2)).square()
