"""The overlap of maps with damaged regions, on maps whose overlap is known."""

import pytest
import torch

from vae_ldm.evaluation.region_overlap import connected_regions, region_overlap


def two_regions() -> torch.Tensor:
    """A place alone, and a square of four by four, in one picture of ten by ten; nothing in another."""
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[0, 0, 0] = True
    masks[0, 4:8, 4:8] = True
    return masks


def test_regions_hang_together_by_sides_and_corners_within_a_picture():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, [0, 1, 2, 1], [0, 1, 2, 3]] = True  # a bent line of corners
    masks[0, 3, 5] = True
    masks[1, 3, 5] = True
    regions = connected_regions(masks)
    assert torch.equal(regions > 0, masks)
    assert regions[masks].tolist() == [1, 1, 1, 1, 2, 3]
    assert connected_regions(torch.ones(1, 2, 2, dtype=torch.bool)).unique().tolist() == [1]


def test_a_perfect_map_covers_all_and_an_even_one_its_share():
    masks = two_regions()
    assert region_overlap(masks.double(), masks) == pytest.approx(1)
    # One threshold marks nothing, the next all: the curve is the diagonal.
    assert region_overlap(torch.zeros(2, 10, 10), masks) == pytest.approx(0.15)
    noise = torch.rand(50, 20, 20, generator=torch.Generator().manual_seed(0))
    many = torch.rand(50, 20, 20, generator=torch.Generator().manual_seed(1)) < 0.02
    assert region_overlap(noise, many) == pytest.approx(0.15, abs=0.02)


def test_a_small_region_counts_as_much_as_a_large_one():
    masks = two_regions()
    large_alone = masks.double()
    large_alone[0, 0, 0] = -1
    # The small region is found only after everything else, at a false-positive rate of 1.
    assert region_overlap(large_alone, masks) == pytest.approx(0.5)


def test_the_curve_is_cut_at_the_limit():
    masks = torch.zeros(1, 1, 11, dtype=torch.bool)
    masks[..., 5] = True
    maps = torch.arange(11.0).view(1, 1, 11)  # five of ten undamaged places come before the damaged one
    assert region_overlap(maps, masks) == 0
    # From a rate of .5 on the overlap is 1: of [0, .9] these are four ninths, of [0, .75] a third.
    assert region_overlap(maps, masks, limit=0.9) == pytest.approx(4 / 9)
    assert region_overlap(maps, masks, limit=0.75) == pytest.approx(1 / 3)


def test_a_measure_of_nothing_is_refused():
    for masks in (torch.zeros(1, 3, 3, dtype=torch.bool), torch.ones(1, 3, 3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="damaged and places that are not"):
            region_overlap(torch.rand(1, 3, 3), masks)
