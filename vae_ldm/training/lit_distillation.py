"""Training a UNet's student that draws in few passes: guidance into the weights, then few steps."""

import itertools

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.models.unet import guidance_embedding
from vae_ldm.training.clipped_module import ClippedModule
from vae_ldm.training.few_steps import FewSteps
from vae_ldm.training.optimizers import OptimizerSettings
from vae_ldm.training.teacher import Teacher, draw_guidance

_VALIDATION_SEED = 0


class LitDistillation(ClippedModule):
    """Two losses one after the other, each the squared distance from what the teacher does.

    In the first `guidance_steps` steps the student learns the teacher's guided prediction at every noise level and
    every guidance of the span (Meng 2023, algorithm 1, stage one). Then it learns jumps: the prediction whose one
    first-order step leads as far as several guided steps of the teacher (Salimans & Ho 2022, algorithm 2, without
    halving: the teacher stays the one that was trained).

    Batches hold `mean`, `std` and `prompt_ids` of photos, as those of `LitLatentDiffusion`, and jumps, as those of
    `JumpDataset`; for validation `prompt_ids` and `index`.
    """

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: Teacher,
        steps: FewSteps,
        *,
        objective: DenoisingObjective,
        guidance_scale: tuple[float, float],
        guidance_steps: int,
        caption_dropout: float,
        optimizer: OptimizerSettings,
        max_steps: int,
        log_every_n_steps: int,
    ) -> None:
        super().__init__(optimizer, max_steps=max_steps)
        self.unet = student
        self.teacher = teacher
        self.steps = steps
        self.objective = objective
        self.guidance_scale = guidance_scale
        self.guidance_steps = guidance_steps
        self.caption_dropout = caption_dropout
        self.log_every_n_steps = log_every_n_steps
        self._drawn_by_teacher: dict[int, Tensor] = {}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of the part that the step is in."""
        learns_guidance = self.trainer.global_step < self.guidance_steps
        loss = (self.guidance_loss(batch) if learns_guidance else self.jump_loss(batch)).mean()
        if (batch_idx + 1) % self.log_every_n_steps == 0:
            # One name for both parts: Lightning goes on telling the last value of one that is logged no more.
            self.log("train/loss", loss, sync_dist=True)
        return loss

    def guidance_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Weighted squared distance from the teacher's guided prediction, [B]."""
        mean, std, prompt_ids = batch["mean"], batch["std"], batch["prompt_ids"]
        dropped = torch.rand(len(mean), device=self.device) < self.caption_dropout
        prompt_ids = torch.where(dropped[:, None], self.teacher.empty_prompt_ids, prompt_ids)
        guidance = draw_guidance(self.guidance_scale, dropped)
        latents = torch.addcmul(mean, std, torch.randn_like(mean))
        timesteps = self.objective.sample_timesteps(len(latents), device=latents.device)
        noisy = self.objective.corrupt(latents, torch.randn_like(latents), timesteps)
        prompts = self.teacher.prompts(prompt_ids)
        target = self.teacher.predict(noisy, timesteps, prompts, guidance)
        prediction = self._predict(noisy, timesteps, prompts, guidance)
        return _squared_distance(prediction, target) * self.objective.weights(timesteps)

    def jump_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Weighted squared distance from the prediction that leads where the teacher arrived, [B]."""
        before, first = batch["before"], batch["first"]
        target = self.steps.target(before, batch["after"], first, batch["last"])
        prompts = self.teacher.prompts(batch["jump_prompt_ids"])
        prediction = self._predict(before, self.steps.timesteps(first), prompts, batch["guidance"])
        return _squared_distance(prediction, target) * self.steps.weights(first)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Logs `val/distance`, the mean over pictures."""
        distance = self.validation_values(batch)["val/distance"].mean()
        self.log("val/distance", distance, batch_size=len(batch["prompt_ids"]), sync_dist=True)

    @torch.no_grad()
    def validation_values(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`val/distance` of each picture, [B]: how far, in latents squared, teacher and student end from one another.

        Both draw from one noise, with one prompt and one guidance, which are the same at each validation.
        """
        prompts = self.teacher.prompts(batch["prompt_ids"])
        noises, scales = zip(*(self._asked(index) for index in batch["index"].tolist()), strict=True)
        noise, guidance = torch.stack(noises).to(self.device), torch.cat(scales).to(self.device)
        expected = self._teacher_draws(batch["index"], noise, prompts, guidance)
        return {"val/distance": _squared_distance(self.draw(noise, prompts, guidance), expected)}

    @torch.no_grad()
    def draw(self, noise: Tensor, prompts: Tensor, guidance: Tensor) -> Tensor:
        """The student's latents [B, c, h, w] from noise, in its own steps."""
        sample, marks = noise, self.steps.marks
        for first, last in itertools.pairwise(marks):
            timesteps = self.steps.timesteps(torch.full((len(noise),), first, device=noise.device))
            sample = self.steps.step(self._predict(sample, timesteps, prompts, guidance).float(), sample, first, last)
        return sample

    def _asked(self, index: int) -> tuple[Tensor, Tensor]:
        """Noise [c, h, w] and guidance [1] of a validation picture, whatever batch and process it falls to."""
        generator = torch.Generator().manual_seed(_VALIDATION_SEED + index)
        size, channels = self.unet.config.sample_size, self.unet.config.in_channels
        height, width = (size, size) if isinstance(size, int) else size
        noise = torch.randn(channels, height, width, generator=generator)
        return noise, draw_guidance(self.guidance_scale, torch.zeros(1, dtype=torch.bool), generator)

    def _teacher_draws(self, indices: Tensor, noise: Tensor, prompts: Tensor, guidance: Tensor) -> Tensor:
        """The teacher's latents, which are kept: they are the same at each validation."""
        wanted = indices.tolist()
        if any(index not in self._drawn_by_teacher for index in wanted):

            def predict(sample: Tensor, timestep: Tensor) -> Tensor:
                return self.teacher.predict(sample, timestep, prompts, guidance)

            drawn = self.steps.follow(predict, noise, 0, self.steps.last)[-1].cpu()
            self._drawn_by_teacher |= dict(zip(wanted, drawn, strict=True))
        return torch.stack([self._drawn_by_teacher[index] for index in wanted]).to(noise.device)

    def _predict(self, sample: Tensor, timesteps: Tensor, prompts: Tensor, guidance: Tensor) -> Tensor:
        told = guidance_embedding(self.unet, guidance).to(sample.dtype)
        return self.unet(sample, timesteps, prompts, timestep_cond=told, return_dict=False)[0]


def _squared_distance(one: Tensor, other: Tensor) -> Tensor:
    """Mean over channels and positions, [B]."""
    return F.mse_loss(one.float(), other.float(), reduction="none").flatten(1).mean(1)
