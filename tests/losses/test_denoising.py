import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

from vae_ldm.errors import VaeLdmError
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.pipelines.schedulers import new_scheduler

OBJECTIVES = {
    "flow": DenoisingObjective("flow_prediction", "logit_normal"),
    "shifted_flow": DenoisingObjective("flow_prediction", "logit_normal", flow_shift=3.0),
    "epsilon": DenoisingObjective("epsilon", "uniform"),
    "v": DenoisingObjective("v_prediction", "uniform"),
    "v_zero_snr": DenoisingObjective("v_prediction", "uniform", zero_terminal_snr=True),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def ideal_prediction(objective, noisy, timestep, mean, std):
    """What a perfect network says when every latent is drawn from N(mean, std^2)."""
    timesteps = timestep.expand(len(noisy))
    alphas, sigmas = (factor.view(-1, 1, 1, 1) for factor in objective.alphas_and_sigmas(timesteps))
    gain = alphas * std**2 / (alphas**2 * std**2 + sigmas**2)
    latents = mean + gain * (noisy - alphas * mean)
    noise = (noisy - alphas * latents) / sigmas
    return objective.target(latents, noise, timesteps)


def sample(objective, noisy, num_inference_steps, mean, std, scheduler=None):
    scheduler = scheduler or scheduler_of(objective)
    timesteps, _ = retrieve_timesteps(scheduler, num_inference_steps, "cpu")
    noisy = noisy * scheduler.init_noise_sigma
    for timestep in timesteps:
        noisy = scheduler.scale_model_input(noisy, timestep)
        prediction = ideal_prediction(objective, noisy, timestep, mean, std)
        noisy = scheduler.step(prediction, timestep, noisy).prev_sample
    return noisy


@every_objective
@pytest.mark.parametrize("num_inference_steps", [10, 20])
def test_the_scheduler_recovers_the_only_picture_there_is(objective, num_inference_steps):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    sampled = sample(objective, torch.randn(3, 4, 8, 8, generator=generator), num_inference_steps, latents, 0.0)
    # The scheduler announces flow's sigmas as timesteps that are rounded down: .0838 as 83, say.
    atol = 0.01 if objective.is_flow else 1e-4
    torch.testing.assert_close(sampled, latents.expand(3, -1, -1, -1), atol=atol, rtol=0)


@every_objective
def test_the_scheduler_samples_the_distribution_that_was_trained(objective):
    noise = torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sampled = sample(objective, noise, 20, mean=0.4, std=0.5)
    assert sampled.mean().item() == pytest.approx(0.4, abs=0.02)
    # Evenly spaced timesteps, which zero terminal SNR needs, lose a little of the spread in their last jump.
    assert sampled.std().item() == pytest.approx(0.5, abs=0.05 if objective.zero_terminal_snr else 0.02)


def test_the_scheduler_of_another_objective_fails_that_test():
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    other = scheduler_of(OBJECTIVES["epsilon"])
    sampled = sample(OBJECTIVES["v"], noise, 20, mean=0.4, std=0.5, scheduler=other)
    assert abs(sampled.std().item() - 0.5) > 0.1


@every_objective
def test_image_to_image_starts_from_the_noise_that_was_trained(objective):
    scheduler = scheduler_of(objective)
    scheduler.set_timesteps(12)
    scheduler.set_begin_index(4)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = scheduler.timesteps[4:5].repeat(2)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noisy, objective.corrupt(latents, noise, timesteps), atol=0.01, rtol=0)


@every_objective
def test_the_scheduler_survives_save_and_load(objective, tmp_path):
    scheduler_of(objective).save_pretrained(tmp_path)
    loaded = type(scheduler_of(objective)).from_pretrained(tmp_path)
    public = {key: value for key, value in scheduler_of(objective).config.items() if not key.startswith("_")}
    assert public.items() <= loaded.config.items()
    assert torch.equal(loaded.alphas_cumprod, scheduler_of(objective).alphas_cumprod)


def test_flow_is_a_straight_line_from_latents_to_noise():
    objective = OBJECTIVES["flow"]
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    noisy = objective.corrupt(latents, noise, torch.tensor([0.0, 250.0, 1000.0]))
    torch.testing.assert_close(noisy[0], latents[0])
    torch.testing.assert_close(noisy[1], 0.75 * latents[1] + 0.25 * noise[1])
    torch.testing.assert_close(noisy[2], noise[2])
    velocity = objective.corrupt(latents, noise, torch.full((3,), 501.0)) - objective.corrupt(
        latents, noise, torch.full((3,), 500.0)
    )
    torch.testing.assert_close(velocity * 1000, objective.target(latents, noise, torch.zeros(3)), atol=1e-3, rtol=0)


def test_betas_are_those_of_stable_diffusion():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    alphas, sigmas = OBJECTIVES["epsilon"].alphas_and_sigmas(torch.tensor([0, 500, 999]))
    np.testing.assert_allclose(alphas**2, alphas_cumprod[[0, 500, 999]], rtol=1e-4)
    np.testing.assert_allclose(alphas**2 + sigmas**2, 1, rtol=1e-6)


def test_v_gives_back_the_latents_and_the_noise():
    objective = OBJECTIVES["v"]
    latents, noise = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([700])
    noisy, v = objective.corrupt(latents, noise, timesteps), objective.target(latents, noise, timesteps)
    alpha, sigma = objective.alphas_and_sigmas(timesteps)
    torch.testing.assert_close(alpha * noisy - sigma * v, latents)
    torch.testing.assert_close(sigma * noisy + alpha * v, noise)


def test_zero_terminal_snr_ends_in_pure_noise_and_without_it_it_does_not():
    last = torch.tensor([999])
    assert OBJECTIVES["v_zero_snr"].alphas_and_sigmas(last)[0].item() < 1e-3
    assert OBJECTIVES["v"].alphas_and_sigmas(last)[0].item() > 0.05


def scheduler_of(objective: DenoisingObjective) -> DPMSolverMultistepScheduler:
    return new_scheduler(
        objective.prediction_type,
        zero_terminal_snr=objective.zero_terminal_snr,
        num_train_timesteps=objective.num_train_timesteps,
        flow_shift=objective.flow_shift,
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_follow_the_paper(prediction_type):
    objective = DenoisingObjective(prediction_type, "uniform", min_snr_gamma=5.0)
    timesteps = torch.tensor([0, 50, 300, 900])
    cumprod = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[timesteps.numpy()]
    snr = cumprod / (1 - cumprod)
    expected = np.minimum(snr, 5) / (snr if prediction_type == "epsilon" else snr + 1)
    np.testing.assert_allclose(objective.weights(timesteps), expected, rtol=2e-3)
    assert snr[0] > 5 > snr[-1]  # both sides of the bound are seen


def test_error_is_the_weighted_mean_square_of_each_picture():
    objective = DenoisingObjective("epsilon", "uniform", min_snr_gamma=5.0)
    prediction, latents, noise = torch.randn(3, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([10, 800])
    by_hand = ((prediction - noise) ** 2).numpy().reshape(2, -1).mean(1) * objective.weights(timesteps).numpy()
    np.testing.assert_allclose(objective.error(prediction, latents, noise, timesteps), by_hand, rtol=1e-5)


def test_a_picture_does_not_see_the_others_timestep():
    objective = OBJECTIVES["flow"]
    latents, noise = torch.randn(2, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    together = objective.corrupt(latents, noise, torch.tensor([100.0, 900.0]))
    alone = objective.corrupt(latents[1:], noise[1:], torch.tensor([900.0]))
    torch.testing.assert_close(together[1:], alone)


def test_logit_normal_timesteps_have_the_logit_normals_quantiles():
    quantiles = torch.tensor([0.0, 0.15865525, 0.5, 0.84134475])
    timesteps = OBJECTIVES["flow"].timesteps_at(quantiles)
    expected = [0.0] + [1000 / (1 + math.exp(-x)) for x in (-1, 0, 1)]
    torch.testing.assert_close(timesteps, torch.tensor(expected), atol=0.01, rtol=0)


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_a_shift_moves_noise_levels_as_the_exported_scheduler_does(sampling):
    """Esser 2024, eq. 23: sigma 1/2 becomes s / (1 + s)."""
    plain, shifted = (DenoisingObjective("flow_prediction", sampling, flow_shift=shift) for shift in (1.0, 3.0))
    quantiles = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-24])
    sigmas = plain.timesteps_at(quantiles) / 1000
    expected = 3 * sigmas / (1 + 2 * sigmas)
    torch.testing.assert_close(shifted.timesteps_at(quantiles) / 1000, expected)
    assert shifted.timesteps_at(quantiles)[2].item() == pytest.approx(750)
    assert shifted.timesteps_at(quantiles).max() < 1000
    schedulers = [scheduler_of(objective) for objective in (plain, shifted)]
    for scheduler in schedulers:
        scheduler.set_timesteps(8)
    sigmas, found = (scheduler.sigmas[:-1].double() for scheduler in schedulers)
    torch.testing.assert_close(found, 3 * sigmas / (1 + 2 * sigmas), atol=1e-6, rtol=0)
    assert DenoisingObjective.of_scheduler(schedulers[1]).flow_shift == 3


@every_objective
def test_sampled_timesteps_are_legal_seeded_and_spread(objective):
    def draw(seed):
        return objective.sample_timesteps(4000, generator=torch.Generator().manual_seed(seed))

    timesteps = draw(0)
    assert timesteps.min() >= 0
    assert timesteps.max() < 1000
    assert timesteps.is_floating_point() == objective.is_flow
    if objective.flow_shift == 1:
        assert timesteps.float().mean().item() == pytest.approx(500, abs=20)
        assert timesteps.float().std().item() == pytest.approx(208 if objective.is_flow else 289, abs=10)
    assert torch.equal(timesteps, draw(0))
    assert not torch.equal(timesteps, draw(1))


@pytest.mark.parametrize(
    ("prediction_type", "settings"),
    [
        ("epsilon", {"zero_terminal_snr": True}),
        ("flow_prediction", {"zero_terminal_snr": True}),
        ("v_prediction", {"flow_shift": 3.0}),
        ("flow_prediction", {"min_snr_gamma": 5.0}),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(prediction_type, settings):
    with pytest.raises(VaeLdmError, match=next(iter(settings))):
        DenoisingObjective(prediction_type, "uniform", **settings)


@pytest.mark.parametrize(
    ("prediction_type", "sampling"),
    [("flow_prediction", "logit_normal"), ("epsilon", "uniform"), ("v_prediction", "uniform")],
)
def test_timesteps_are_drawn_by_what_is_predicted_unless_said_otherwise(prediction_type, sampling):
    assert DenoisingObjective(prediction_type).timestep_sampling == sampling
    scheduler = scheduler_of(DenoisingObjective(prediction_type))
    assert DenoisingObjective.of_scheduler(scheduler).timestep_sampling == sampling
    assert DenoisingObjective(prediction_type, "logit_normal").timestep_sampling == "logit_normal"


def test_only_uniform_timesteps_reach_the_last_one():
    largest = torch.tensor([1 - 2**-24])  # the largest float32 that torch.rand can return
    assert DenoisingObjective("v_prediction", "uniform").timesteps_at(largest).item() == 999
    assert DenoisingObjective("v_prediction", "logit_normal").timesteps_at(largest).item() == 995


@pytest.mark.parametrize(
    ("sampling", "settings", "cure"),
    [
        ("logit_normal", {}, "set diffusion.timestep_sampling=uniform"),
        ("uniform", {"min_snr_gamma": 5.0}, "set diffusion.min_snr_gamma=null"),
        (None, {"min_snr_gamma": 5.0}, "set diffusion.min_snr_gamma=null"),
    ],
)
def test_zero_terminal_snr_needs_its_last_timestep(sampling, settings, cure):
    own = DenoisingObjective("v_prediction", sampling, zero_terminal_snr=True, **settings)
    pretrained = DenoisingObjective.of_scheduler(scheduler_of(own), sampling, **settings)
    for objective in (own, pretrained):
        with pytest.raises(VaeLdmError, match=cure):
            objective.check_trains_last_timestep()
    DenoisingObjective("v_prediction", sampling, **settings).check_trains_last_timestep()
    DenoisingObjective("v_prediction", zero_terminal_snr=True).check_trains_last_timestep()
