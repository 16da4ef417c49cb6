"""Places compared with a memory of places."""

import torch

from vae_ldm.latent_space.patch_memory import PatchMemory, farthest_first, local_patches


def test_patches_stack_maps_at_the_size_of_the_first_and_know_their_neighbours():
    fine, coarse = torch.zeros(2, 3, 8, 12), torch.ones(2, 5, 4, 6)
    fine[0, 0, 4, 6] = 9.0
    patches = local_patches([fine, coarse])
    assert patches.shape == (2, 8, 8, 12)
    torch.testing.assert_close(patches[0, 0, 3:6, 5:8], torch.ones(3, 3))
    assert patches[0, 0].sum() == 9
    torch.testing.assert_close(patches[:, 3:], torch.ones(2, 5, 8, 12))


def test_distances_are_standard_deviations_to_the_nearest_patch():
    patches = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 20.0], [2.0, 20.0]])  # deviations 1 and 10
    memory = PatchMemory.fit(patches)
    seen = memory(torch.tensor([[[0.0, 0.0], [5.0, 20.0]], [[2.0, 60.0], [1.0, 0.0]]]))
    torch.testing.assert_close(seen, torch.tensor([[0.0, 3.0], [4.0, 1.0]]) / 2**0.5, atol=1e-3, rtol=0)


def test_a_channel_that_never_varies_does_not_divide_by_zero():
    patches = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    patches[:, 1] = 7.0
    assert PatchMemory.fit(patches)(patches[None]).abs().max() < 1e-2


def test_farthest_first_covers_clusters_that_a_random_choice_would_miss():
    generator = torch.Generator().manual_seed(0)
    crowd = torch.randn(500, 100, generator=generator)
    rare = torch.randn(3, 100, generator=generator) + 30 * torch.eye(100)[:3]
    points = torch.cat([crowd, rare])
    chosen = farthest_first(points, 8)
    assert len(set(chosen.tolist())) == 8
    assert {500, 501, 502} <= set(chosen.tolist())
    assert torch.equal(farthest_first(points[:5], 8), torch.arange(5))
