"""The noise of a variance-preserving process, which training and sampling share."""

from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

STABLE_DIFFUSION_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Rombach 2022, appendix."""


def alphas_cumprod(*, num_train_timesteps: int, zero_terminal_snr: bool) -> Tensor:
    """alpha_t^2 of each timestep, float32 [num_train_timesteps]; the last is (nearly) 0 with `zero_terminal_snr`."""
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=num_train_timesteps,
        rescale_betas_zero_snr=zero_terminal_snr,
        **STABLE_DIFFUSION_BETAS,  # type: ignore[arg-type]
    )
    return scheduler.alphas_cumprod
