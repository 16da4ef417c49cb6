"""Ways through latent space that begin at one photo: a closed loop around it, and a grid over two directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.errors import VaeLdmError


@dataclass(frozen=True, eq=False)
class Variation:
    """How photos differ from each other: the principal axes of their latents.

    White noise in latents is a direction that no photo ever took, and decodes to speckle; a mixture of these axes is
    one that photos do take.
    """

    axes: Tensor
    """[k, c, h, w], of unit length and at right angles, the one along which photos differ most first."""
    stds: Tensor
    """[k], the photos' standard deviation along each."""

    @classmethod
    def fit(cls, latents: Tensor, *, max_axes: int = 64) -> Self:
        """The principal axes of latents [N, c, h, w]; N is at least 3, so that there are two axes.

        Raises VaeLdmError for fewer.
        """
        if len(latents) < 3:
            raise VaeLdmError(f"directions need at least 3 photos to be learned from, not {len(latents)}")
        flat = latents.double().flatten(1)
        _, singular, axes = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
        count = min(max_axes, len(latents) - 1, len(axes))
        axes = axes[:count]
        # An axis has no sign of its own; the largest entry is made positive, so that two machines agree.
        axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
        stds = singular[:count] / (len(latents) - 1) ** 0.5
        return cls(axes.float().view(count, *latents.shape[1:]), stds.float())

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` random directions [count, c, h, w], distributed as photos are about their mean."""
        weights = torch.randn(count, len(self.stds), generator=generator) * self.stds
        return torch.einsum("nk,kchw->nchw", weights, self.axes)


def loop_around(center: Tensor, directions: Tensor, *, radius: float, steps: int) -> Tensor:
    """`steps` latents [steps, c, h, w] on a circle around `center` [c, h, w]; one step more would be the first again.

    The circle lies in the plane of two `directions` [2, c, h, w]. `radius` is the distance from the photo in standard
    deviations of a latent, the root mean square over all its numbers: two photos of unit variance are 1.4 apart.

    Raises VaeLdmError for a radius of 0 or less.
    """
    if radius <= 0:
        raise VaeLdmError(f"radius is {radius:g}; it is a distance above 0")
    # At right angles to each other, and each as long as a latent of unit variance.
    plane = torch.linalg.qr(directions.double().flatten(1).T).Q.T * center.numel() ** 0.5
    turns = torch.arange(steps, dtype=torch.float64) * (2 * torch.pi / steps)
    around = radius * torch.stack([turns.cos(), turns.sin()], dim=1) @ plane
    return center + around.to(center.dtype).view(steps, *center.shape)


def axes_grid(center: Tensor, across: Tensor, down: Tensor, places: Sequence[float]) -> Tensor:
    """Latents [n * n, c, h, w], row by row: `center` + x * `across` + y * `down` for x and y among n `places`."""
    return torch.stack([center + x * across + y * down for y in places for x in places])


def corners_grid(corner: Tensor, right: Tensor, bottom: Tensor, places: Sequence[float]) -> Tensor:
    """Latents [n * n, c, h, w], row by row, between three photos at three corners, for n `places` in [0, 1].

    The fourth corner is halfway between `right` and `bottom`: nothing lies outside of the three, where latents would be
    of nothing that was ever seen.
    """
    shares = [(x / max(1, x + y), y / max(1, x + y)) for y in places for x in places]
    return torch.stack([(1 - x - y) * corner + x * right + y * bottom for x, y in shares])


def rim(num_rows: int, num_columns: int) -> list[int]:
    """Indices of the border of a grid that is kept row by row, clockwise from the top left: a closed way round."""
    top = [(0, column) for column in range(num_columns - 1)]
    right = [(row, num_columns - 1) for row in range(num_rows - 1)]
    bottom = [(num_rows - 1, column) for column in range(num_columns - 1, 0, -1)]
    left = [(row, 0) for row in range(num_rows - 1, 0, -1)]
    return [row * num_columns + column for row, column in (*top, *right, *bottom, *left)]
