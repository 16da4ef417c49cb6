"""The steps of a student, against those that diffusers' own scheduler takes."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from torch import Tensor

from vae_ldm.errors import VaeLdmError
from vae_ldm.pipelines.schedulers import first_order, multistep, new_scheduler
from vae_ldm.training.few_steps import FewSteps

SCHEDULERS: dict[str, dict[str, Any]] = {
    "flow": {"prediction_type": "flow_prediction"},
    "shifted flow": {"prediction_type": "flow_prediction", "flow_shift": 3.0},
    "v": {"prediction_type": "v_prediction"},
    "epsilon": {"prediction_type": "epsilon"},
    "zero terminal SNR": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
}


def few_steps(kind: str = "flow", num_steps: int = 4, num_teacher_steps: int = 12) -> FewSteps:
    return FewSteps(new_scheduler(**SCHEDULERS[kind]), num_steps=num_steps, num_teacher_steps=num_teacher_steps)


def predict(sample: Tensor, timestep: Tensor) -> Tensor:
    """A network: something of both that no solver meets exactly."""
    return torch.tanh(sample * 0.7) + timestep / 1000


def drawn(scheduler: Any, noise: Tensor, num_steps: int) -> Tensor:
    """As a pipeline of diffusers draws."""
    scheduler.set_timesteps(num_steps)
    sample = noise
    for timestep in scheduler.timesteps:
        sample = scheduler.step(predict(sample, timestep), timestep, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_student_steps_as_the_exported_scheduler_does(kind, num_steps):
    steps, noise = few_steps(kind, num_steps), torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    exported = first_order(new_scheduler(**SCHEDULERS[kind]))
    exported.set_timesteps(num_steps)
    levels = torch.tensor(steps.marks[:-1])
    assert steps.timesteps(levels).tolist() == exported.timesteps.tolist(), "the UNet is told the same"
    sample = noise
    for first, last, timestep in zip(steps.marks, steps.marks[1:], steps.timesteps(levels), strict=False):
        sample = steps.step(predict(sample, timestep), sample, first, last)
    torch.testing.assert_close(sample, drawn(exported, noise, num_steps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_teacher_follows_the_trajectory_of_its_own_sampler(kind):
    steps, noise = few_steps(kind), torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    samples = steps.follow(predict, noise, 0, steps.last)
    assert len(samples) == steps.last + 1
    assert torch.equal(samples[0], noise)
    expected = drawn(multistep(new_scheduler(**SCHEDULERS[kind])), noise, steps.last)
    torch.testing.assert_close(samples[-1], expected, rtol=1e-5, atol=1e-5)
    again = steps.follow(predict, noise, 0, steps.last)
    assert torch.equal(again[-1], samples[-1]), "nothing is left of the steps before"


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_target_leads_where_the_teacher_arrives(kind):
    steps, noise = few_steps(kind), torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    samples = steps.follow(predict, noise, 0, steps.last)
    for first, last in zip(steps.marks, steps.marks[1:], strict=False):
        levels = torch.full((3,), first), torch.full((3,), last)
        target = steps.target(samples[first], samples[last], *levels)
        torch.testing.assert_close(steps.step(target, samples[first], first, last), samples[last], rtol=1e-3, atol=1e-4)


def test_from_a_level_in_between_the_step_ends_where_the_next_one_begins():
    steps = few_steps()
    assert steps.marks == [0, 3, 6, 9, 12]
    assert [steps.next_mark(level) for level in range(12)] == [3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12]
    latents, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    assert steps.noisy(latents, noise, 0).item() == 2
    assert steps.noisy(latents, noise, 6).item() == pytest.approx(1.5, abs=1e-3), "half of the way of the flow"
    before = steps.noisy(latents, noise, 7)
    exact = steps.target(before, steps.noisy(latents, noise, 9), torch.tensor([7]), torch.tensor([9]))
    assert exact.item() == pytest.approx(1.0, abs=1e-4), "the velocity of a straight line is noise less latents"


def test_an_error_of_epsilon_weighs_as_one_of_the_picture():
    levels = torch.tensor([0, 12])
    weights = few_steps("epsilon").weights(levels)
    assert weights[0] > 100
    assert weights[1] == 1
    assert few_steps("v").weights(levels).tolist() == [1, 1]


@pytest.mark.parametrize("scheduler", [PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_schedulers_of_other_pipelines_become_the_students(scheduler):
    steps = FewSteps(scheduler(timestep_spacing="trailing"), num_steps=4, num_teacher_steps=12)
    assert len(steps.marks) == 5
    assert steps.teacher.config.solver_order == 2
    assert steps.student.config.solver_order == 1


def test_a_scheduler_without_finer_steps_in_between_is_refused():
    short = DDIMScheduler(num_train_timesteps=10, timestep_spacing="trailing")
    with pytest.raises(VaeLdmError, match=r"^4 steps: no finer steps .* take another number$"):
        FewSteps(short, num_steps=4, num_teacher_steps=12)
