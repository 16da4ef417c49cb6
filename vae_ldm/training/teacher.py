"""The frozen networks that a student of few passes learns from."""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

_AT_THE_ENDS = 0.05
"""Share of drawn guidance scales at each end of their range, so that the ends are learned as well."""


class Teacher(nn.Module):
    """UNet and text encoder, frozen and in eval mode; predictions with classifier-free guidance."""

    empty_prompt_ids: Tensor

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, empty_prompt_ids: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.register_buffer("empty_prompt_ids", empty_prompt_ids, persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.empty_prompt_ids.device

    @torch.no_grad()
    def prompts(self, prompt_ids: Tensor) -> Tensor:
        """Embeddings [B, L, D] of token ids [B, L]."""
        return self.text_encoder(prompt_ids)[0]

    @torch.no_grad()
    def predict(self, sample: Tensor, timesteps: Tensor, prompts: Tensor, guidance_scale: Tensor) -> Tensor:
        """The prediction for noisy latents [B, c, h, w] at timesteps [] or [B], guided by scales [B] (Ho 2022, eq. 6).

        As diffusers' pipelines do, nothing is guided at scales up to 1, and one pass is enough where all are.
        """
        if bool((guidance_scale <= 1).all()):
            return self.unet(sample, timesteps, prompts, return_dict=False)[0]
        nothing = self.prompts(self.empty_prompt_ids).expand_as(prompts)
        twice = timesteps.expand(len(sample)).repeat(2)
        both = self.unet(sample.repeat(2, 1, 1, 1), twice, torch.cat([nothing, prompts]), return_dict=False)[0]
        unguided, guided = both.chunk(2)
        return unguided + guidance_scale.clamp(min=1).view(-1, 1, 1, 1) * (guided - unguided)


def draw_guidance(span: tuple[float, float], dropped: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Guidance scales [B] evenly over a span, some of them at its ends.

    Of those whose prompt was `dropped`, [B], half are 1, at which pictures without a prompt are drawn.
    """
    low, high = span
    device = "cpu" if generator is not None else dropped.device
    places = torch.rand(len(dropped), generator=generator, device=device) * (1 + 2 * _AT_THE_ENDS) - _AT_THE_ENDS
    is_one = torch.rand(len(dropped), generator=generator, device=device) < 0.5
    scales = low + (high - low) * places.clamp(0, 1)
    return torch.where(dropped.to(device) & is_one, torch.ones_like(scales), scales)
