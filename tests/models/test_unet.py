import pytest
import torch

from vae_ldm.models.unet import UNET_SIZES, new_unet


@pytest.mark.parametrize("latent_size", [(4, 4), (6, 10), (7, 5), (1, 3)])
def test_any_latent_size_goes_in_and_comes_out(latent_size, nano_networks):
    unet = new_unet("tiny", latent_channels=4, latent_size=latent_size, cross_attention_dim=32)
    latents = torch.randn(2, 4, *latent_size)
    with torch.no_grad():
        prediction = unet(latents, torch.tensor([0.5, 900.0]), torch.randn(2, 5, 32)).sample
    assert prediction.shape == latents.shape
    assert torch.isfinite(prediction).all()


def test_sample_size_is_a_number_where_latents_are_square(nano_networks):
    for latent_size, expected in (((8, 8), 8), ((6, 10), (6, 10))):
        unet = new_unet("tiny", latent_channels=4, latent_size=latent_size, cross_attention_dim=32)
        assert unet.config.sample_size == expected


@pytest.mark.parametrize("size", UNET_SIZES)
def test_every_size_can_be_built_with_heads_of_its_width(size):
    with torch.device("meta"):
        unet = new_unet(size, latent_channels=4, latent_size=(16, 16), cross_attention_dim=64)
    chosen = UNET_SIZES[size]
    attention = [m for name, m in unet.named_modules() if name.endswith("attn1")]
    assert attention
    assert {module.inner_dim // module.heads for module in attention} == {chosen.attention_head_dim}
    attending = [hasattr(block, "attentions") for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
    assert attending == [*chosen.attends, True, *reversed(chosen.attends)]
    assert unet.config.block_out_channels == chosen.block_out_channels


def test_dropout_acts_in_training_only(nano_networks):
    torch.manual_seed(0)
    unet = new_unet("tiny", latent_channels=4, latent_size=(4, 4), cross_attention_dim=32, dropout=0.5)
    inputs = (torch.randn(1, 4, 4, 4), torch.tensor([10]), torch.randn(1, 5, 32))
    with torch.no_grad():
        assert not torch.equal(unet(*inputs).sample, unet(*inputs).sample)
        unet.eval()
        assert torch.equal(unet(*inputs).sample, unet(*inputs).sample)


@pytest.mark.parametrize(("size", "prompt_width"), [("tiny", 32), ("nano", 32), ("nano", 20)])
def test_the_prompt_matters(size, prompt_width, nano_networks):
    torch.manual_seed(0)
    unet = new_unet(size, latent_channels=4, latent_size=(4, 4), cross_attention_dim=prompt_width).eval()
    latents, timesteps = torch.randn(1, 4, 4, 4), torch.tensor([500])
    with torch.no_grad():
        one, other = (unet(latents, timesteps, torch.randn(1, 5, prompt_width)).sample for _ in range(2))
    assert not torch.allclose(one, other)
