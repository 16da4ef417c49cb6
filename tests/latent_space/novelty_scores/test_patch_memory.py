"""Places compared with a memory of places."""

import torch

from vae_ldm.latent_space.novelty_scores.patch_memory import farthest_first, local_patches


def test_patches_stack_maps_at_the_size_of_the_first_and_know_their_neighbours():
    fine, coarse = torch.zeros(2, 3, 8, 12), torch.ones(2, 5, 4, 6)
    fine[0, 0, 4, 6] = 9.0
    patches = local_patches([fine, coarse])
    assert patches.shape == (2, 8, 8, 12)
    torch.testing.assert_close(patches[0, 0, 3:6, 5:8], torch.ones(3, 3))
    assert patches[0, 0].sum() == 9
    torch.testing.assert_close(patches[:, 3:], torch.ones(2, 5, 8, 12))


def test_farthest_first_covers_clusters_that_a_random_choice_would_miss():
    generator = torch.Generator().manual_seed(0)
    crowd = torch.randn(500, 100, generator=generator)
    rare = torch.randn(3, 100, generator=generator) + 30 * torch.eye(100)[:3]
    points = torch.cat([crowd, rare])
    chosen = farthest_first(points, 8)
    assert len(set(chosen.tolist())) == 8
    assert {500, 501, 502} <= set(chosen.tolist())
    assert torch.equal(farthest_first(points[:5], 8), torch.arange(5))
