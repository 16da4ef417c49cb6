"""The scheduler that a pipeline is exported with."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffusers import DPMSolverMultistepScheduler, SchedulerMixin

from vae_ldm.models.noise_schedule import STABLE_DIFFUSION_BETAS


def new_scheduler(
    prediction_type: str,
    *,
    zero_terminal_snr: bool = False,
    flow_shift: float = 1.0,
    num_train_timesteps: int = 1000,
) -> DPMSolverMultistepScheduler:
    """A new DPM-Solver++ (Lu 2022, order 2) that samples well in 10 to 20 steps what DenoisingObjective trains."""
    is_flow = prediction_type == "flow_prediction"
    return DPMSolverMultistepScheduler(
        num_train_timesteps=num_train_timesteps,
        **STABLE_DIFFUSION_BETAS,  # type: ignore[arg-type]
        prediction_type=prediction_type,
        use_flow_sigmas=is_flow,
        flow_shift=flow_shift,
        rescale_betas_zero_snr=zero_terminal_snr,
        # Evenly spaced timesteps end with a jump that blurs: an exact network gives .07 for a standard deviation
        # of .15 in 12 steps, with Karras' spacing .15. Where sigma has no upper end that spacing cannot be used.
        use_karras_sigmas=not is_flow and not zero_terminal_snr,
        # For zero terminal SNR: sampling starts at the very last timestep, as it must (Lin 2023, section 3.3).
        timestep_spacing="trailing",
        # Without effect on this spacing; some versions of StableDiffusionPipeline warn unless it is 1.
        steps_offset=1,
    )


def multistep(scheduler: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ of second order with the noise of another scheduler of this kind (a pretrained one may be PNDM)."""
    return _solver(scheduler, solver_order=2)


def first_order(scheduler: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ of first order, which is DDIM and, with flow sigmas, Euler: what a student of few steps takes."""
    return _solver(scheduler, solver_order=1)


class DrawingDefaults(NamedTuple):
    """How a student of few steps is meant to draw."""

    num_inference_steps: int
    guidance_scale: float


_STEPS, _GUIDANCE = "_vae_ldm_num_inference_steps", "_vae_ldm_guidance_scale"
"""Keys of a scheduler's configuration: diffusers keeps those with an underscore, and heeds them not."""


def student_scheduler(scheduler: SchedulerMixin, defaults: DrawingDefaults) -> DPMSolverMultistepScheduler:
    """The scheduler that a student is exported with, in whose configuration its `drawing_defaults` stand."""
    new = first_order(scheduler)
    new.register_to_config(**{_STEPS: defaults.num_inference_steps, _GUIDANCE: defaults.guidance_scale})
    return new


def drawing_defaults(config: Mapping[str, Any]) -> DrawingDefaults | None:
    """What a scheduler's configuration says of drawing with it; None where it is no student's."""
    if _STEPS not in config or _GUIDANCE not in config:
        return None
    return DrawingDefaults(config[_STEPS], config[_GUIDANCE])


def _solver(scheduler: SchedulerMixin, *, solver_order: int) -> DPMSolverMultistepScheduler:
    settings = {"solver_order": solver_order, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}
    return DPMSolverMultistepScheduler.from_config(scheduler.config, **settings, thresholding=False)
