"""Which noise of a batch goes to which latents."""

import importlib.util

import torch
from torch import Tensor

from vae_ldm.errors import VaeLdmError


def check_assignment() -> None:
    """Raise VaeLdmError where `nearest_noise` lacks its package."""
    if importlib.util.find_spec("scipy") is None:
        raise VaeLdmError(
            "diffusion.noise_assignment: immiscible needs one more package: pip install 'vae_ldm[immiscible]'"
        )


@torch.no_grad()
def nearest_noise(latents: Tensor, noise: Tensor) -> Tensor:
    """The row of the noise [B, ...] for each of the latents [B, ...], int64 [B], every row once.

    The sum of squared distances within the batch is the smallest there is (Li 2024, immiscible diffusion, arXiv
    2406.12303, section 3.2), so that paths from noise to pictures cross less. The noise of all pictures together stays
    Gaussian; that of one picture is drawn to it, the more the larger the batch. Each process assigns its own batch.
    The distances go through the CPU, for which a GPU waits once a step.
    """
    from scipy.optimize import linear_sum_assignment

    with torch.autocast(latents.device.type, enabled=False):
        # Of |x - n|^2 only -2 x n depends on who gets which noise.
        gain = latents.flatten(1).float() @ noise.flatten(1).float().T
    _, columns = linear_sum_assignment(gain.double().cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(latents.device)
