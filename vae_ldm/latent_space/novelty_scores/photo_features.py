"""What a network sees in photos, and in damaged copies of them: all that novelty scores are computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from vae_ldm.latent_space.stored_tensors import check_tensors


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """What is seen in N photos. About 75 KB a photo in half precision, with 196 places of 152 numbers."""

    moments: tuple[Tensor, ...]
    """Means, then standard deviations, of all channels over the places of a stage of the network: [N, 2 * c_i] each.
    The first stage is the one nearest to the pixels."""
    layouts: tuple[Tensor, ...]
    """What lies where: the pixels of a small copy, and stages averaged over few places, [N, D_i] each."""
    patches: Tensor
    """[N, P, C]: what each of P places shows."""

    def __post_init__(self) -> None:
        assert {len(each) for each in (*self.moments, *self.layouts, self.patches)} == {len(self.patches)}

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, rows: Tensor | slice) -> "PhotoFeatures":
        return PhotoFeatures(
            tuple(each[rows] for each in self.moments), tuple(each[rows] for each in self.layouts), self.patches[rows]
        )

    @classmethod
    def cat(cls, some: "Sequence[PhotoFeatures]") -> "PhotoFeatures":
        """All photos of several, in order."""
        return cls(
            tuple(torch.cat(each) for each in zip(*(photos.moments for photos in some), strict=True)),
            tuple(torch.cat(each) for each in zip(*(photos.layouts for photos in some), strict=True)),
            torch.cat([photos.patches for photos in some]),
        )

    def half(self) -> "PhotoFeatures":
        """The same in half precision, as it is stored. Every score takes either."""
        return PhotoFeatures(
            tuple(each.half() for each in self.moments),
            tuple(each.half() for each in self.layouts),
            self.patches.half(),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file: in half precision."""
        stored = self.half()
        return {
            **{f"moments.{index}": each.contiguous() for index, each in enumerate(stored.moments)},
            **{f"layouts.{index}": each.contiguous() for index, each in enumerate(stored.layouts)},
            "patches": stored.patches.contiguous(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The features that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        moments, layouts = numbered(tensors, "moments"), numbered(tensors, "layouts")
        shapes = {name: ("N", f"D of {name}") for name in (*moments, *layouts)}
        check_tensors(tensors, {**shapes, "patches": ("N", "P", "C")}, dtype=torch.float16)
        return cls(
            tuple(tensors[name] for name in moments), tuple(tensors[name] for name in layouts), tensors["patches"]
        )


@dataclass(frozen=True, eq=False)
class MadeCopies:
    """What is seen in M damaged copies of good photos."""

    features: PhotoFeatures
    kinds: Tensor
    """int64 [M]: which kind of damage was made, from 0."""
    sources: Tensor
    """int64 [M, 2]: the row of the good photo that was copied, and of the one that lent a piece to the damage."""
    masks: Tensor
    """Which share of each place is damaged: float16 [M, P]."""
    steps: Tensor | None = None
    """What the damage has changed at its places, [M, C]; see `with_steps`."""

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, rows: Tensor) -> "MadeCopies":
        steps = None if self.steps is None else self.steps[rows]
        return MadeCopies(self.features[rows], self.kinds[rows], self.sources[rows], self.masks[rows], steps)

    def with_steps(self, good: PhotoFeatures) -> "MadeCopies":
        """The copies with their steps from the good photos that they were made of, which all fits have in common.

        A step is the mean over the places of which damage covers the greater part; where it covers none so far, over
        the place of which it covers most.
        """
        steps = []
        for rows in torch.arange(len(self)).split(64):
            masks = self.masks[rows].float()
            covered = (masks >= masks.amax(dim=1, keepdim=True).clamp(min=1e-6, max=0.5)).float()
            before, after = good.patches[self.sources[rows, 0]], self.features.patches[rows]
            changed = torch.bmm(covered[:, None], after.float() - before.float())[:, 0]
            steps.append(changed / covered.sum(dim=1, keepdim=True).clamp(min=1))
        return replace(self, steps=torch.cat(steps))

    @classmethod
    def cat(cls, some: "Sequence[MadeCopies]") -> "MadeCopies":
        """All copies of several, in order."""
        return cls(
            PhotoFeatures.cat([each.features for each in some]),
            torch.cat([each.kinds for each in some]),
            torch.cat([each.sources for each in some]),
            torch.cat([each.masks for each in some]),
        )

    def rows_of(self, usable: Tensor) -> Tensor:
        """Rows of the copies that show nothing but the good photos marked in `usable`, bool [N]."""
        return usable[self.sources].all(dim=1).nonzero().flatten()

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        features = {f"features.{name}": tensor for name, tensor in self.features.tensors().items()}
        return {**features, "kinds": self.kinds, "sources": self.sources, "masks": self.masks}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The copies that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        features = PhotoFeatures.from_tensors(below(tensors, "features"))
        check_tensors(tensors, {"kinds": (len(features),), "sources": (len(features), 2)}, dtype=torch.int64)
        check_tensors(tensors, {"masks": tuple(features.patches.shape[:2])}, dtype=torch.float16)
        return cls(features, tensors["kinds"], tensors["sources"], tensors["masks"])


@dataclass(frozen=True, eq=False)
class MorePlaces:
    """Places of further good photos, which go into the memory of places and nowhere else.

    There may be so many photos that all features of all of them would not fit into memory.
    """

    num_photos: int
    patches: Tensor
    """[M, C], in half precision"""
    photos: Tensor
    """int64 [M]: which of the further photos each place is of."""
    groups: Tensor
    """int64 [M]: the group of each place's photo."""

    def without_groups(self, groups: Tensor) -> "MorePlaces":
        """The places of photos that are of none of these groups, int64 [n]."""
        return self._of(torch.isin(self.groups, groups, invert=True))

    def without_photos(self, photos: Tensor) -> "MorePlaces":
        """The places of all photos but these, int64 [n]."""
        return self._of(torch.isin(self.photos, photos, invert=True))

    def _of(self, wanted: Tensor) -> "MorePlaces":
        rows = wanted.nonzero().flatten()
        return MorePlaces(self.num_photos, self.patches[rows], self.photos[rows], self.groups[rows])

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a safetensors file."""
        number = torch.tensor(self.num_photos)
        return {"num_photos": number, "patches": self.patches, "photos": self.photos, "groups": self.groups}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The places that `tensors()` came from. Raises KeyError where one is missing, ValueError for any others."""
        check_tensors(tensors, {"patches": ("M", "C")}, dtype=torch.float16)
        each = (len(tensors["patches"]),)
        check_tensors(tensors, {"num_photos": (), "photos": each, "groups": each}, dtype=torch.int64)
        return cls(int(tensors["num_photos"]), tensors["patches"], tensors["photos"], tensors["groups"])


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix` and a dot, without these."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def numbered(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    """The names `prefix`.0, `prefix`.1 and so on, as far as they go; the first is always among them."""
    names = [f"{prefix}.0"]
    while (name := f"{prefix}.{len(names)}") in tensors:
        names.append(name)
    return names
