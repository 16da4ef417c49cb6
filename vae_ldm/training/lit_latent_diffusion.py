"""Training a latent UNet on cached posteriors: LitLatentDiffusion wraps UNet and text encoder for the Trainer."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import CLIPTextModel

from vae_ldm.choices import NoiseAssignment
from vae_ldm.losses.denoising import DenoisingObjective
from vae_ldm.losses.noise_assignment import nearest_noise
from vae_ldm.training.clipped_module import ClippedModule
from vae_ldm.training.optimizers import OptimizerSettings

_VALIDATION_SEED = 0

Generators = torch.Generator | list[torch.Generator] | None


class LitLatentDiffusion(ClippedModule):
    """The denoising loss on latents drawn anew from their cached posteriors.

    Batches hold `mean` and `std`, float [B, c, h, w], `prompt_ids`, int64 [B, L], and for validation `index`, [B].
    A share `caption_dropout` of the prompts is replaced by the empty one, for classifier-free guidance (Ho & Salimans
    2022, algorithm 1), and a share `word_dropout` of all words by the token `unknown_id`, so that it is trained.
    """

    empty_prompt_ids: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        *,
        objective: DenoisingObjective,
        empty_prompt_ids: Tensor,
        optimizer: OptimizerSettings,
        max_steps: int,
        caption_dropout: float,
        word_dropout: float,
        unknown_id: int | None,
        log_every_n_steps: int,
        contrastive_weight: float = 0.0,
        noise_assignment: NoiseAssignment = "random",
    ) -> None:
        """`contrastive_weight` is lambda of contrastive flow matching: see `training_step`."""
        super().__init__(optimizer, max_steps=max_steps)
        self.unet = unet
        self.text_encoder = text_encoder
        self.objective = objective
        self.register_buffer("empty_prompt_ids", empty_prompt_ids, persistent=False)
        self.caption_dropout = caption_dropout
        self.word_dropout = word_dropout
        self.unknown_id = unknown_id
        self.log_every_n_steps = log_every_n_steps
        self.contrastive_weight = contrastive_weight
        self.noise_assignment = noise_assignment

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean denoising loss and, with a `contrastive_weight`, less that share of the contrastive term.

        That term (Stoica 2025, contrastive flow matching, arXiv 2506.05350) is the squared distance between a
        prediction and the velocity of another picture of the batch, with its own noise: flows of different prompts are
        driven apart. Here the other picture always has another prompt, because flows of one prompt shall not part, and
        a picture whose prompt was dropped has no term, because the empty prompt stands for all of them. Where a batch
        has one prompt only, the term is 0.
        """
        prompt_ids = self._with_unknown_words(batch["prompt_ids"])
        dropped = torch.rand(len(prompt_ids), 1, device=self.device) < self.caption_dropout
        prompt_ids = torch.where(dropped, self.empty_prompt_ids, prompt_ids)
        denoised = self._denoise(batch, prompt_ids, assigns=self.noise_assignment == "immiscible")
        loss = self.objective.error(*denoised).mean()
        if self.contrastive_weight:
            others, has_other = other_prompts(batch["prompt_ids"])
            prediction, latents, noise, timesteps = denoised
            distance = self.objective.error(prediction, latents[others], noise[others], timesteps)
            loss = loss - self.contrastive_weight * (distance * (has_other & ~dropped.flatten())).mean()
        if (batch_idx + 1) % self.log_every_n_steps == 0:
            self.log("train/loss", loss, sync_dist=True)
        return loss

    def _with_unknown_words(self, prompt_ids: Tensor) -> Tensor:
        """The prompts [B, L], a share of their words replaced by `<unknown>`.

        Every word of a training caption has a token of its own, so that one would keep its random embedding, and a new
        word in a prompt would move the picture at random.
        """
        if not self.word_dropout or self.unknown_id is None:
            return prompt_ids
        # The empty prompt holds all tokens that are no words, and padding does.
        is_word = ~torch.isin(prompt_ids, self.empty_prompt_ids)
        chosen = torch.rand(prompt_ids.shape, device=prompt_ids.device) < self.word_dropout
        return torch.where(chosen & is_word, self.unknown_id, prompt_ids)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Logs `val/loss`, the mean over pictures."""
        loss = self.validation_values(batch)["val/loss"].mean()
        self.log("val/loss", loss, batch_size=len(batch["prompt_ids"]), sync_dist=True)

    def validation_values(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`val/loss` of each picture, [B], on fixed noise and timesteps: it falls only when the network is better."""
        # One a picture, whatever batch and process it falls to; on the CPU, for the same draws on every device.
        generators = [torch.Generator().manual_seed(_VALIDATION_SEED + index) for index in batch["index"].tolist()]
        return {"val/loss": self.denoising_loss(batch, batch["prompt_ids"], generator=generators)}

    def denoising_loss(self, batch: dict[str, Tensor], prompt_ids: Tensor, generator: Generators = None) -> Tensor:
        """Weighted squared error, one value per image: [B]. `generator` may be one per image; None: the global one."""
        return self.objective.error(*self._denoise(batch, prompt_ids, generator))

    def _denoise(
        self, batch: dict[str, Tensor], prompt_ids: Tensor, generator: Generators = None, *, assigns: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The prediction, and the latents, noise and timesteps that it was made from."""
        mean, std = batch["mean"], batch["std"]
        latents = torch.addcmul(mean, std, _randn_like(mean, generator))
        noise = _randn_like(latents, generator)
        if assigns:
            noise = noise[nearest_noise(latents, noise)]
        timesteps = self._timesteps(latents, generator)
        prompts = self.text_encoder(prompt_ids)[0]
        noisy = self.objective.corrupt(latents, noise, timesteps)
        prediction = self.unet(noisy, timesteps, encoder_hidden_states=prompts, return_dict=False)[0]
        return prediction, latents, noise, timesteps

    def _timesteps(self, latents: Tensor, generator: Generators) -> Tensor:
        if not isinstance(generator, list):
            return self.objective.sample_timesteps(len(latents), generator=generator, device=latents.device)
        return torch.cat([self.objective.sample_timesteps(1, generator=one) for one in generator]).to(latents.device)


def other_prompts(prompt_ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each prompt [B, L] the row of one that differs, drawn at random, and whether there is any, each [B]."""
    differs = (prompt_ids[:, None] != prompt_ids[None]).any(-1)
    drawn = torch.rand(differs.shape, device=prompt_ids.device).masked_fill(~differs, -1).argmax(1)
    return drawn, differs.any(1)


def _randn_like(tensor: Tensor, generator: Generators) -> Tensor:
    if generator is None:
        return torch.randn_like(tensor)
    return randn_tensor(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype)
