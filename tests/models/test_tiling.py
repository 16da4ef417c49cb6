import itertools

import pytest
import torch
import torch.nn.functional as F

from vae_ldm.models.tiling import tiled


def shrink(images):
    return F.avg_pool2d(images, 4) ** 2


def enlarge(latents):
    return F.interpolate(latents, scale_factor=4.0, mode="nearest") ** 2


@pytest.mark.parametrize("size", [(96, 96), (100, 64), (8, 200), (64, 68), (36, 36)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (9, 8), (64, 16)])
def test_what_looks_at_no_neighbours_is_as_if_it_were_whole(size, tile, overlap):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    latents = tiled(shrink, images, tile=tile, overlap=overlap, in_step=4)
    torch.testing.assert_close(latents, shrink(images))
    torch.testing.assert_close(tiled(enlarge, latents, tile=tile, overlap=overlap, out_step=4), enlarge(latents))


def test_every_tile_is_whole_and_they_overlap():
    seen = []

    def note(part):
        seen.append(part[0, 0])
        return part

    columns = torch.arange(101.0).expand(1, 1, 40, 101)
    tiled(note, columns, tile=32, overlap=8)
    assert {tuple(part.shape) for part in seen} == {(32, 32)}
    starts = sorted({int(part[0, 0]) for part in seen})
    assert (starts[0], starts[-1]) == (0, 101 - 32)
    assert all(b - a <= 32 - 8 for a, b in itertools.pairwise(starts))


def test_tiles_that_disagree_fade_into_each_other():
    tones = iter(range(100))
    joined = tiled(
        lambda part: torch.full_like(part, float(next(tones) % 2)), torch.zeros(1, 1, 32, 320), tile=32, overlap=8
    )
    jumps = joined.diff(dim=-1).abs().max().item()
    assert joined.min() < 0.01
    assert joined.max() > 0.99
    assert jumps < 0.25  # a hard joint would jump by 1
