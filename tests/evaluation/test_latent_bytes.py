import torch

from vae_ldm.evaluation.latent_bytes import eight_bit_bytes, rounded_to_eight_bits


def test_each_channel_of_a_picture_has_at_most_256_levels_between_its_own_ends():
    latents = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 5, 0.1]).view(
        3, 1, 1
    )
    rounded = rounded_to_eight_bits(latents)
    for one, other in zip(latents.flatten(0, 1), rounded.flatten(0, 1), strict=True):
        assert len(other.unique()) <= 256
        step = (one.max() - one.min()) / 255
        assert (one - other).abs().max() <= step * 0.501
        assert other.min() == one.min()
    flat = torch.full((1, 1, 4, 4), 0.3)
    torch.testing.assert_close(rounded_to_eight_bits(flat), flat)


def test_bytes_of_a_picture():
    assert eight_bit_bytes((4, 32, 32)) == 4 * 32 * 32 + 16
