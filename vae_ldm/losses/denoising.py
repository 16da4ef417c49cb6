"""What the UNet learns: noisy latents, targets and weights."""

from typing import Self, get_args

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from torch import Tensor

from vae_ldm.choices import PredictionType, TimestepSampling
from vae_ldm.errors import VaeLdmError
from vae_ldm.models import noise_schedule

_LARGEST_QUANTILE = 1 - 2**-24
"""The largest float32 below 1, which torch.rand can return and a shift would round to 1."""
_ZERO_TERMINAL_SNR = 1e-6
"""Largest alpha_bar at the last timestep that counts as zero: diffusers writes 2 ** -24; Stable Diffusion has .0047."""


class DenoisingObjective:
    """Noisy latents x_t = alpha_t x_0 + sigma_t noise, and what is predicted from them.

    flow_prediction: alpha = 1 - sigma, and t = num_train_timesteps * sigma is continuous (Lipman 2022; Liu 2022).
    epsilon and v_prediction: variance preserving, t is whole, betas as in Stable Diffusion (Rombach 2022).

    `timestep_sampling` None is logit_normal for flow_prediction (Esser 2024, eq. 19: velocities are hardest to predict
    in the middle) and uniform for the others (Ho 2020, algorithm 1): their samplers spend steps at both ends, which
    logit_normal hardly trains. Zero terminal SNR (Lin 2023) exists for the last timestep, so it goes neither with
    logit_normal, which never draws that step, nor with min-SNR weighting, which gives it no weight:
    `check_trains_last_timestep` refuses both.

    `flow_shift` s is for flow_prediction: noise levels move from sigma to s sigma / (1 + (s - 1) sigma) (Esser 2024,
    eq. 23), towards pure noise for s above 1, because the same noise hides less of a larger picture. The pipeline's
    scheduler has to have the same `flow_shift`.

    Raises VaeLdmError where a setting means nothing for the prediction type.
    """

    def __init__(
        self,
        prediction_type: PredictionType,
        timestep_sampling: TimestepSampling | None = None,
        *,
        min_snr_gamma: float | None = None,
        zero_terminal_snr: bool = False,
        flow_shift: float = 1.0,
        num_train_timesteps: int = 1000,
        alphas_cumprod: Tensor | None = None,
    ) -> None:
        if flow_shift != 1 and prediction_type != "flow_prediction":
            raise VaeLdmError(f"flow_shift needs prediction_type flow_prediction, not {prediction_type}")
        if zero_terminal_snr and prediction_type != "v_prediction":
            raise VaeLdmError(f"zero_terminal_snr needs prediction_type v_prediction, not {prediction_type}")
        if min_snr_gamma is not None and prediction_type == "flow_prediction":
            raise VaeLdmError(
                "min_snr_gamma is for epsilon and v_prediction; set diffusion.min_snr_gamma=null with flow_prediction"
            )
        self.prediction_type = prediction_type
        self.timestep_sampling = timestep_sampling or ("logit_normal" if self.is_flow else "uniform")
        self.min_snr_gamma = min_snr_gamma
        self.zero_terminal_snr = zero_terminal_snr
        self.flow_shift = flow_shift
        self.num_train_timesteps = num_train_timesteps
        if alphas_cumprod is None:
            alphas_cumprod = noise_schedule.alphas_cumprod(
                num_train_timesteps=num_train_timesteps, zero_terminal_snr=zero_terminal_snr
            )
        self._alphas_cumprod: Tensor = alphas_cumprod

    @classmethod
    def of_scheduler(
        cls,
        scheduler: SchedulerMixin,
        timestep_sampling: TimestepSampling | None = None,
        *,
        min_snr_gamma: float | None = None,
    ) -> Self:
        """The objective that a pretrained UNet was trained on, by the scheduler in its pipeline: its noise, its target.

        Raises VaeLdmError where the scheduler is for something else.
        """
        prediction_type, steps = (scheduler.config.get(key) for key in ("prediction_type", "num_train_timesteps"))
        if prediction_type not in get_args(PredictionType) or not hasattr(scheduler, "alphas_cumprod"):
            raise VaeLdmError(
                f"a {type(scheduler).__name__} that predicts {prediction_type} cannot be trained for; "
                f"known are {', '.join(get_args(PredictionType))}"
            )
        return cls(
            prediction_type,
            timestep_sampling,
            min_snr_gamma=min_snr_gamma,
            flow_shift=scheduler.config.get("flow_shift") or 1.0 if prediction_type == "flow_prediction" else 1.0,
            num_train_timesteps=steps,
            alphas_cumprod=scheduler.alphas_cumprod,
        )

    def check_trains_last_timestep(self) -> None:
        """Raise VaeLdmError where the signal-to-noise ratio ends at zero and the last timestep is never trained.

        The constructor does not check it, so that a run that was trained so can still be opened and exported.
        """
        if self.is_flow or float(self._alphas_cumprod[-1]) > _ZERO_TERMINAL_SNR:
            return
        if self.timestep_sampling == "logit_normal":
            raise VaeLdmError(
                "logit_normal never draws the last timestep, for which zero terminal SNR exists; "
                "set diffusion.timestep_sampling=uniform"
            )
        if self.min_snr_gamma is not None:
            raise VaeLdmError(
                "min_snr_gamma weighs the last timestep with 0, for which zero terminal SNR exists; "
                "set diffusion.min_snr_gamma=null"
            )

    @property
    def is_flow(self) -> bool:
        return self.prediction_type == "flow_prediction"

    def sample_timesteps(
        self, batch_size: int, *, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Random timesteps [B] in [0, num_train_timesteps) for corrupt() and the UNet, drawn where the generator is."""
        source = device if generator is None else generator.device
        return self.timesteps_at(torch.rand(batch_size, generator=generator, device=source)).to(device)

    def timesteps_at(self, quantiles: Tensor) -> Tensor:
        """Timesteps [B] at these quantiles [B] in [0, 1) of the training distribution; evenly spaced for validation."""
        if self.timestep_sampling == "logit_normal":  # Esser 2024, eq. 19 with m = 0, s = 1
            quantiles = torch.special.ndtri(quantiles).sigmoid()
        if self.flow_shift != 1:  # Esser 2024, eq. 23
            quantiles = self.flow_shift * quantiles / (1 + (self.flow_shift - 1) * quantiles)
            quantiles = quantiles.clamp(max=_LARGEST_QUANTILE)
        timesteps = quantiles * self.num_train_timesteps
        return timesteps if self.is_flow else timesteps.long()

    def alphas_and_sigmas(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the latents and of the noise at these timesteps, each [B] in [0, 1]."""
        if self.is_flow:
            sigmas = timesteps / self.num_train_timesteps
            return 1 - sigmas, sigmas
        self._alphas_cumprod = self._alphas_cumprod.to(timesteps.device)  # copied once, not every step
        alphas_cumprod = self._alphas_cumprod[timesteps.long()]
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()

    def corrupt(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents, [B, c, h, w]; at timestep 0 nearly the latents, at the last nearly the noise."""
        alphas, sigmas = self._broadcast(timesteps)
        return alphas * latents + sigmas * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet should predict, [B, c, h, w]: noise, v (Salimans & Ho 2022, appendix D) or velocity."""
        if self.prediction_type == "epsilon":
            return noise
        if self.is_flow:
            return noise - latents
        alphas, sigmas = self._broadcast(timesteps)
        return alphas * noise - sigmas * latents

    def weights(self, timesteps: Tensor) -> Tensor:
        """Weight of each picture's error, [B]: 1, or min-SNR-gamma (Hang 2023, eq. 8 and its v form).

        In terms of x_0's error it is min(SNR, gamma) for both, so it vanishes where zero terminal SNR is reached.
        """
        if self.min_snr_gamma is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        alphas, sigmas = self.alphas_and_sigmas(timesteps)
        snr = (alphas / sigmas) ** 2
        return snr.clamp(max=self.min_snr_gamma) / (snr if self.prediction_type == "epsilon" else snr + 1)

    def error(self, prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Weighted squared error of a prediction, mean over channels and positions: [B]."""
        target = self.target(latents, noise, timesteps)
        squared = F.mse_loss(prediction.float(), target.float(), reduction="none")
        return squared.flatten(1).mean(1) * self.weights(timesteps)

    def _broadcast(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas, sigmas = self.alphas_and_sigmas(timesteps)
        return alphas.view(-1, 1, 1, 1), sigmas.view(-1, 1, 1, 1)
