import pytest
import torch

from vae_ldm.models.discriminator import PatchDiscriminator


def discriminator(**settings):
    torch.manual_seed(0)
    return PatchDiscriminator(**{"in_channels": 3, "base_channels": 8, "num_layers": 3} | settings)


@pytest.mark.parametrize(
    ("image_size", "num_layers", "patches"),
    [((64, 64), 3, (8, 8)), ((32, 32), 3, (4, 4)), ((24, 40), 3, (3, 5)), ((8, 8), 3, (1, 1)), ((50, 33), 2, (12, 8))],
)
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_one_logit_for_each_patch(image_size, num_layers, patches, in_channels):
    logits = discriminator(in_channels=in_channels, num_layers=num_layers)(torch.randn(2, in_channels, *image_size))
    assert logits.shape == (2, 1, *patches)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("base_channels", "num_layers"), [(1, 1), (6, 3), (64, 5)])
def test_any_width_and_depth_can_be_built(base_channels, num_layers):
    logits = discriminator(base_channels=base_channels, num_layers=num_layers)(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 1, 64 // 2**num_layers, 64 // 2**num_layers)


def test_the_usual_size_has_the_usual_number_of_weights():
    weights = discriminator(base_channels=64)
    # pix2pix's 2.76 M, with 3x3 in the last two convolutions.
    assert sum(weight.numel() for weight in weights.parameters()) == 1_844_545


def test_a_pictures_logits_do_not_depend_on_its_neighbours_or_on_training_mode():
    network, images = discriminator(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    together = network.train()(images)
    torch.testing.assert_close(network.eval()(images[2:3]), together[2:3])
    assert not list(network.buffers())


def test_it_learns_to_tell_flat_pictures_from_noise():
    network = discriminator()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        real = torch.rand(8, 3, 1, 1, generator=generator).expand(-1, -1, 16, 16) * 2 - 1
        fake = torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1
        loss = (1 - network(real)).relu().mean() + (1 + network(fake)).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network(real).mean() > 0 > network(fake).mean()
