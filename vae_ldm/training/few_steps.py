"""What a student of few steps learns: the prediction whose one step leads where its teacher arrives in several."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from vae_ldm.errors import VaeLdmError
from vae_ldm.pipelines.schedulers import first_order, multistep

Predict = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents [B, c, h, w] and a timestep [] to a prediction of their shape."""

_FINEST = 8
"""So many times the steps that are asked for are looked through for a grid that holds the student's."""
_SAME_LEVEL = 1e-4


class FewSteps:
    """The steps of a student, each of which is several of its teacher's (Salimans & Ho 2022, section 3).

    The student takes first-order steps, those of DDIM or Euler, through the noise levels that the exported scheduler
    has for `num_steps`. The teacher takes DPM-Solver++ steps of second order through finer levels, at least
    `num_teacher_steps` of them, which hold all of the student's. Levels are counted on the teacher's grid: 0 is pure
    noise, `last` is no noise.

    Raises VaeLdmError where the scheduler has no such finer levels.
    """

    def __init__(self, scheduler: SchedulerMixin, *, num_steps: int, num_teacher_steps: int) -> None:
        self.student: Any = first_order(scheduler)
        self.student.set_timesteps(num_steps)
        self.teacher: Any = multistep(scheduler)
        self.marks = self._refine(num_teacher_steps)
        """The teacher's levels at which the student stands, [num_steps + 1]; the last one is `last`."""
        self.last = self.marks[-1]
        self._known_factors: dict[tuple[int, int], tuple[float, float]] = {}

    def _refine(self, num_teacher_steps: int) -> list[int]:
        wanted, num_steps = self.student.sigmas, len(self.student.timesteps)
        most = min(self.teacher.config.num_train_timesteps, _FINEST * max(num_teacher_steps, num_steps))
        for count in range(max(num_teacher_steps, num_steps), most + 1):
            self.teacher.set_timesteps(count)
            levels = self.teacher.sigmas
            nearest = (levels[None] - wanted[:, None]).abs().argmin(1)
            if torch.allclose(levels[nearest], wanted, rtol=_SAME_LEVEL, atol=_SAME_LEVEL):
                return nearest.tolist()
        raise VaeLdmError(
            f"{num_steps} steps: no finer steps of the scheduler pass through their noise levels; take another number"
        )

    def timesteps(self, levels: Tensor) -> Tensor:
        """What the UNet is told at levels [B], int64 [B]."""
        return self.teacher.timesteps[levels.cpu()].to(levels.device)

    def next_mark(self, level: int) -> int:
        """The level at which a student's step from here ends: the next one at which it stands."""
        return next(mark for mark in self.marks if mark > level)

    def noisy(self, latents: Tensor, noise: Tensor, level: int) -> Tensor:
        """Latents [B, c, h, w] with as much noise as a level has."""
        if level == 0:  # where every sampler begins, whatever the schedule leaves of the picture there
            return noise
        alpha, sigma = self._alpha_sigma(self.teacher.sigmas[level])
        return alpha * latents + sigma * noise

    @torch.no_grad()
    def follow(self, predict: Predict, sample: Tensor, first: int, last: int) -> list[Tensor]:
        """The teacher's samples from level `first`, that of `sample`, to level `last`, both included."""
        self.teacher.set_timesteps(len(self.teacher.timesteps))  # forgets the steps of other samples
        self.teacher.set_begin_index(first)
        samples = [sample]
        for level in range(first, last):
            timestep = self.teacher.timesteps[level]
            prediction = predict(samples[-1], timestep.to(sample.device)).float()
            samples.append(self.teacher.step(prediction, timestep, samples[-1], return_dict=False)[0])
        return samples

    def step(self, prediction: Tensor, sample: Tensor, first: int, last: int) -> Tensor:
        """The student's sample at level `last` after one step from that of level `first`."""
        of_sample, of_prediction = self._factors(first, last)
        return of_sample * sample + of_prediction * prediction

    def target(self, sample: Tensor, arrived: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """The predictions with which one step leads from `sample` to `arrived`, [B, c, h, w], at their levels [B]."""
        factors = [self._factors(*levels) for levels in zip(first.tolist(), last.tolist(), strict=True)]
        of_sample, of_prediction = torch.tensor(factors, device=sample.device).T.reshape(2, -1, 1, 1, 1)
        return (arrived - of_sample * sample) / of_prediction

    def weights(self, levels: Tensor) -> Tensor:
        """Weights of a squared error of the prediction at levels [B], [B].

        1, but for epsilon that of an error of x_0 where the signal is below the noise: max(SNR, 1) of the latter
        (Salimans & Ho 2022, section 4), because an error of epsilon at pure noise moves the picture most and is small.
        """
        if self.teacher.config.prediction_type != "epsilon":
            return torch.ones(len(levels), device=levels.device)
        alpha, sigma = self._alpha_sigma(self.teacher.sigmas[levels.cpu()])
        return (sigma / alpha).square().clamp(min=1).to(levels.device)

    def _alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        if self.teacher.config.use_flow_sigmas:
            return 1 - level, level
        alpha = 1 / (level**2 + 1).sqrt()
        return alpha, level * alpha

    def _factors(self, first: int, last: int) -> tuple[float, float]:
        """A step is linear: the shares of sample and prediction in what it gives, as the scheduler itself steps."""
        if (first, last) not in self._known_factors:
            self._known_factors[first, last] = self._find_factors(first, last)
        return self._known_factors[first, last]

    def _find_factors(self, first: int, last: int) -> tuple[float, float]:
        scheduler = self.student
        ends = []
        for prediction, sample in ((0.0, 1.0), (1.0, 0.0)):
            scheduler.set_timesteps(1)  # which also begins anew
            scheduler.sigmas = self.teacher.sigmas[[first, last]]
            scheduler.set_begin_index(0)
            given = (torch.tensor([prediction], dtype=torch.float64), torch.tensor([sample], dtype=torch.float64))
            ends.append(float(scheduler.step(given[0], scheduler.timesteps[0], given[1], return_dict=False)[0]))
        return ends[0], ends[1]
