"""Photos of noise as a network might see them, and damage made on them: small enough to fit detectors by the dozen."""

import torch
from torch import Tensor

from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures

NUM_KINDS = 3
CHANNELS = (3, 4)
PLACES = 25


def noise_maps(count: int, *, seed: int, scale: float = 1.0, places: int = PLACES) -> list[Tensor]:
    """Two stages of `count` photos, [N, c, places] each. How much a photo varies differs a little among photos."""
    generator = torch.Generator().manual_seed(seed)
    scales = scale * (0.9 + 0.2 * torch.rand(count, 1, 1, generator=generator))
    return [scales * torch.randn(count, channels, places, generator=generator) for channels in CHANNELS]


def features_of(maps: list[Tensor]) -> PhotoFeatures:
    """What is seen in photos whose stages are `maps`, in single precision."""
    moments = tuple(torch.cat([stage.mean(dim=2), stage.std(dim=2, correction=0)], dim=1) for stage in maps)
    return PhotoFeatures(moments, tuple(stage.flatten(1) for stage in maps), torch.cat(maps, dim=1).transpose(1, 2))


def made_copies(maps: list[Tensor], rows: Tensor) -> MadeCopies:
    """Smoother, rougher and spotted copies of the photos in `rows`. The spots come from the photo after the next."""
    base = [stage[rows] for stage in maps]
    lenders = (rows + 2) % len(maps[0])
    spotted = [stage.clone() for stage in base]
    for stage, whole in zip(spotted, maps, strict=True):
        stage[:, :, 2] = whole[lenders][:, :, 0] + 3
    places = maps[0].shape[2]
    whole = torch.ones(len(rows), places, dtype=torch.float16)
    spots = (torch.arange(places) == 2).half().expand(len(rows), places)
    features = [features_of([0.7 * each for each in base]), features_of([1.4 * each for each in base])]
    return MadeCopies(
        PhotoFeatures.cat([*features, features_of(spotted)]),
        torch.arange(NUM_KINDS).repeat_interleave(len(rows)),
        torch.cat([torch.stack([rows, other], dim=1) for other in (rows, rows, lenders)]),
        torch.cat([whole, whole, spots]),
    )
