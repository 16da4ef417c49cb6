import copy

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from vae_ldm.models.latent_scaling import (
    LatentStatistics,
    check_fold,
    decide_force_upcast,
    fold_latent_scaling,
    latent_statistics,
    reconstruct,
    round_to_half,
    silence_posterior,
    stored_statistics,
    weighted_latent_statistics,
)

LAYOUTS = {
    "ours": {"scaling_factor": 1.0},
    "stable_diffusion": {"scaling_factor": 0.18215},
    "flux": {
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
}


def tiny_autoencoder(**config):
    torch.manual_seed(0)
    return AutoencoderKL(
        **{
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "latent_channels": 3,
            "sample_size": 16,
        }
        | config
    ).eval()


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def autoencoder(request):
    return tiny_autoencoder(**request.param)


@pytest.fixture
def images():
    return torch.rand(12, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def posteriors(autoencoder, images):
    return [autoencoder.encode(batch).latent_dist for batch in images.split(5)]


def test_statistics_are_those_of_many_samples():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 2, 4, 4, generator=generator) * torch.tensor([0.2, 3.0]).view(1, 2, 1, 1) + 5
    logvar = torch.randn(3, 2, 4, 4, generator=generator)
    posterior = DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1))
    samples = torch.cat([posterior.sample(generator) for _ in range(4000)])
    statistics = latent_statistics([posterior])
    torch.testing.assert_close(statistics.mean.float(), samples.mean(dim=(0, 2, 3)), atol=0.02, rtol=0)
    torch.testing.assert_close(statistics.std.float(), samples.std(dim=(0, 2, 3)), atol=0.02, rtol=0)
    # Half of that variance is missed by who looks at the means only.
    assert statistics.std[0] > 2 * mean[:, 0].std()


def test_statistics_do_not_depend_on_how_the_pictures_are_batched(autoencoder, images):
    at_once = latent_statistics(posteriors(autoencoder, images)[:1])
    one_by_one = latent_statistics(p for image in images[:5] for p in posteriors(autoencoder, image[None]))
    torch.testing.assert_close(one_by_one.mean, at_once.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(one_by_one.std, at_once.std, atol=1e-6, rtol=0)


def test_statistics_keep_a_small_spread_around_a_large_mean():
    mean = 1000 + 0.01 * torch.randn(1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    posterior = DiagonalGaussianDistribution(torch.cat([mean, torch.full_like(mean, -30)], dim=1))
    torch.testing.assert_close(latent_statistics([posterior]).std[0], mean.std(correction=0), rtol=1e-3, atol=0)


def test_folded_latents_have_zero_mean_and_unit_variance_per_channel(autoencoder, images):
    before = latent_statistics(posteriors(autoencoder, images))
    assert before.mean.abs().max() > 0.05  # there is something to fold
    fold_latent_scaling(autoencoder, before)
    after = latent_statistics(posteriors(autoencoder, images))
    torch.testing.assert_close(after.mean, torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.std, torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_fold_changes_no_picture(autoencoder, images):
    before = copy.deepcopy(autoencoder)
    statistics = LatentStatistics(
        torch.tensor([3.0, -2.0, 0.1], dtype=torch.float64), torch.tensor([4.0, 0.5, 2.0], dtype=torch.float64)
    )
    fold_latent_scaling(autoencoder, statistics)
    assert check_fold(before, autoencoder, images) < 1e-5


def test_the_check_notices_a_wrong_fold(autoencoder, images):
    before = copy.deepcopy(autoencoder)
    fold_latent_scaling(autoencoder, latent_statistics(posteriors(autoencoder, images)))
    with torch.no_grad():
        autoencoder.post_quant_conv.bias += 0.5
    assert check_fold(before, autoencoder, images) > 1e-3


def test_a_folded_posterior_is_the_old_one_in_new_units(autoencoder, images):
    old = posteriors(autoencoder, images)[0]
    statistics = latent_statistics(posteriors(autoencoder, images))
    fold_latent_scaling(autoencoder, statistics)
    new = posteriors(autoencoder, images)[0]
    mean, std = (value.float().view(1, -1, 1, 1) for value in (statistics.mean, statistics.std))
    torch.testing.assert_close(new.mean, (old.mean - mean) / std, atol=1e-5, rtol=0)
    torch.testing.assert_close(new.std, old.std / std, atol=1e-5, rtol=1e-5)


def test_the_config_says_what_was_done_and_survives_save_and_load(autoencoder, images, tmp_path):
    fold_latent_scaling(autoencoder, latent_statistics(posteriors(autoencoder, images)))
    autoencoder.save_pretrained(tmp_path)
    loaded = AutoencoderKL.from_pretrained(tmp_path).eval()
    assert loaded.config.use_quant_conv
    assert loaded.config.use_post_quant_conv
    assert loaded.config.scaling_factor == 1.0
    assert loaded.config.shift_factor is loaded.config.latents_mean is loaded.config.latents_std is None
    assert torch.equal(reconstruct(loaded, images), reconstruct(autoencoder, images))


def test_folding_twice_is_folding_once(autoencoder, images):
    fold_latent_scaling(autoencoder, latent_statistics(posteriors(autoencoder, images)))
    once = copy.deepcopy(autoencoder)
    fold_latent_scaling(autoencoder, latent_statistics(posteriors(autoencoder, images)))
    for name, weight in autoencoder.state_dict().items():
        torch.testing.assert_close(weight, once.state_dict()[name], atol=1e-5, rtol=1e-5)


PER_CHANNEL = {"latents_mean": (0.5, -1.0, 2.0), "latents_std": (1.0, 2.0, 4.0), "scaling_factor": 0.5}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # As FluxPipeline and StableDiffusionXLPipeline compute them.
        (LAYOUTS["flux"], lambda latents: (latents - 0.1159) * 0.3611),
        (
            PER_CHANNEL,
            lambda latents: (
                (latents - torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1))
                * (0.5 / torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1))
            ),
        ),
    ],
)
def test_stored_statistics_give_the_latents_that_their_own_pipelines_would(config, expected, images):
    autoencoder = tiny_autoencoder(**config)
    old = posteriors(autoencoder, images)[0].mean
    fold_latent_scaling(autoencoder, stored_statistics(autoencoder))
    torch.testing.assert_close(posteriors(autoencoder, images)[0].mean, expected(old), atol=1e-5, rtol=0)
    assert stored_statistics(autoencoder) is None


def test_a_scaling_factor_alone_is_left_to_the_pipeline():
    assert stored_statistics(tiny_autoencoder(**LAYOUTS["stable_diffusion"])) is None


def test_a_channel_that_never_varies_does_not_blow_up(autoencoder, images):
    statistics = LatentStatistics(torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 0.0, 1.0]).double())
    before = copy.deepcopy(autoencoder)
    fold_latent_scaling(autoencoder, statistics)
    assert check_fold(before, autoencoder, images) < 1e-5


def test_a_silent_posterior_samples_its_mean_and_folds_as_any_other(autoencoder, images):
    before = copy.deepcopy(autoencoder)
    silence_posterior(autoencoder)
    assert check_fold(before, autoencoder, images) == 0
    fold_latent_scaling(autoencoder, latent_statistics(posteriors(autoencoder, images)))
    posterior = posteriors(autoencoder, images)[0]
    torch.testing.assert_close(posterior.sample(), posterior.mean, atol=1e-4, rtol=0)
    after = latent_statistics(posteriors(autoencoder, images))
    torch.testing.assert_close(after.std, torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_an_ordinary_autoencoder_may_run_in_half_precision(autoencoder, images):
    before = copy.deepcopy(autoencoder.state_dict())
    assert decide_force_upcast(autoencoder, images) is False
    assert all(torch.equal(before[name], weight) for name, weight in autoencoder.state_dict().items())


def test_activations_beyond_65504_call_for_float32(autoencoder, images):
    with torch.no_grad():
        autoencoder.decoder.conv_in.weight *= 1e6
    assert reconstruct(autoencoder, images).isfinite().all()
    assert decide_force_upcast(autoencoder, images) is True


def test_lost_detail_calls_for_float32_although_everything_is_finite(autoencoder, images):
    # A large constant in the last layer but one that the last bias takes away again: float16 keeps 2 of 4000 there.
    decoder = autoencoder.decoder
    with torch.no_grad():
        decoder.conv_norm_out.bias += 4000
        constant = 4000 * decoder.conv_out.weight.sum(dim=(1, 2, 3))
        decoder.conv_out.bias -= constant
    assert reconstruct(autoencoder, images).isfinite().all()
    assert decide_force_upcast(autoencoder, images) is True


def test_rounding_modules_stands_for_half_precision(autoencoder, images):
    exact = reconstruct(autoencoder, images)
    real = reconstruct(copy.deepcopy(autoencoder).half(), images).float()
    rounded = copy.deepcopy(autoencoder)
    round_to_half(rounded)
    ratio = (reconstruct(rounded, images) - exact).square().mean() / (real - exact).square().mean()
    assert 0.5 < ratio < 2


def test_a_picture_counts_by_its_weight_whatever_its_size():
    """Two sources, one of larger pictures: as if each picture was drawn with the probability of its weight."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(3, 4, 2, 2, generator=generator)
    large = torch.randn(5, 4, 8, 4, generator=generator) + 3
    pairs = [(DiagonalGaussianDistribution(small), 0.75 / 3), (DiagonalGaussianDistribution(large), 0.25 / 5)]
    found = weighted_latent_statistics(pairs)
    means = [values[:, :2].double().mean(dim=(0, 2, 3)) for values in (small, large)]
    squares = [
        (values[:, :2].double().square() + values[:, 2:].double().exp()).mean(dim=(0, 2, 3))
        for values in (small, large)
    ]
    mean, square = (0.75 * one + 0.25 * other for one, other in (means, squares))
    assert torch.allclose(found.mean, mean)
    assert torch.allclose(found.std, (square - mean.square()).sqrt())
