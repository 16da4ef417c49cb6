"""How far a photo lies from the nearest good photo, where the same things lie at the same places."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.leading_axes import LeadingAxes
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures, below
from vae_ldm.latent_space.stored_tensors import check_lengths, check_tensors

MAX_AXES = 32


def num_axes_for(num_photos: int) -> int:
    """How many axes suit so many photos and four fifths of them: a fifth of the photos, from 2 to 32.

    The last axes of few photos are these photos themselves, and all others lie near 0 on them.
    """
    return min(MAX_AXES, max(2, num_photos // 5))


@dataclass(frozen=True, eq=False)
class _Layout:
    """One kind of layout: its whitened axes, and the good photos on them."""

    axes: LeadingAxes
    references: Tensor
    """[N, k]"""

    @classmethod
    def fit(cls, layouts: Tensor, num_axes: int, generator: torch.Generator) -> Self:
        axes = LeadingAxes.fit(layouts, num_axes, generator)
        return cls(axes, axes(layouts) / axes.deviations)

    def __call__(self, layouts: Tensor) -> Tensor:
        check_lengths(self.axes.mean, layouts)
        return torch.cdist(self.axes(layouts) / self.axes.deviations, self.references).amin(dim=1)


@dataclass(frozen=True, eq=False)
class PlacedScores:
    """Distances to the nearest good photo on the leading whitened axes of each layout (the pixels of a small copy, and
    stages averaged over few places)."""

    layouts: tuple[_Layout, ...]

    @classmethod
    def fit(cls, good: PhotoFeatures, num_axes: int, generator: torch.Generator) -> Self:
        """The scores fitted on good photos, with `num_axes` a layout: fits whose scores are compared have the same."""
        return cls(tuple(_Layout.fit(each, num_axes, generator) for each in good.layouts))

    def __call__(self, seen: PhotoFeatures) -> Tensor:
        """Scores [N, number of layouts], in standard deviations of the axes."""
        return torch.stack([fitted(each) for fitted, each in zip(self.layouts, seen.layouts, strict=True)], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        return {
            f"{index}.{name}": tensor
            for index, layout in enumerate(self.layouts)
            for name, tensor in (
                ("mean", layout.axes.mean),
                ("axes", layout.axes.axes),
                ("deviations", layout.axes.deviations),
                ("references", layout.references),
            )
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The scores that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        layouts: list[_Layout] = []
        while not layouts or f"{len(layouts)}.mean" in tensors:
            layout = below(tensors, str(len(layouts)))
            check_tensors(layout, {"mean": ("D",), "axes": ("k", "D"), "deviations": ("k",), "references": ("N", "k")})
            axes = LeadingAxes(layout["mean"], layout["axes"], layout["deviations"])
            layouts.append(_Layout(axes, layout["references"]))
        return cls(tuple(layouts))
