"""From latents to other latents: some of the way to noise and back."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from vae_ldm.choices import MAX_GUIDANCE_SCALE
from vae_ldm.errors import VaeLdmError
from vae_ldm.models.unet import is_student
from vae_ldm.pipelines.prompt_length import telling_what_is_cut_off
from vae_ldm.pipelines.sampling import check_prompt
from vae_ldm.pipelines.schedulers import DrawingDefaults, drawing_defaults
from vae_ldm.text import counted

Generators = torch.Generator | list[torch.Generator]

_DEFAULTS = DrawingDefaults(20, 2.0)


def defaults_of(pipeline: StableDiffusionPipeline) -> DrawingDefaults:
    """Steps and guidance where none are named: a student's own, or else 20 steps with a guidance of 2."""
    return drawing_defaults(pipeline.scheduler.config) or _DEFAULTS


def varied_latents(
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    strength: float,
    n: int,
    *,
    prompt: str | Sequence[str],
    num_inference_steps: int | None,
    guidance_scale: float | None,
    **options: Any,
) -> Tensor:
    """Latents [B * n, c, h, w] of latents [B, c, h, w], after `strength` of the way to noise and back (Meng 2021).

    `prompt` is one for all or one for each of the B; steps and guidance None are those of `defaults_of`; `options` are
    those of diffusers' image to image. Raises VaeLdmError for what is out of its range.
    """
    defaults = defaults_of(pipeline)
    if num_inference_steps is None:
        num_inference_steps = defaults.num_inference_steps
    options["guidance_scale"] = defaults.guidance_scale if guidance_scale is None else guidance_scale
    if not 0 <= strength <= 1:
        raise VaeLdmError(f"strength is {strength:g}; it is a share in [0, 1]")
    prompts = [prompt] * len(latents) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(latents):
        raise VaeLdmError(
            f"{counted(len(prompts), 'prompt')} for {counted(len(latents), 'image')}; give one for all, "
            "or one for each image"
        )
    for text in prompts:
        check_prompt(text)
    check_guidance(options["guidance_scale"])
    warn_of_ignored(pipeline, options.get("negative_prompt"))
    if isinstance(negative := options.get("negative_prompt"), str):
        options["negative_prompt"] = [negative] * len(latents)  # diffusers wants the kind that the prompt has
    if strength == 0:
        return latents.repeat_interleave(n, dim=0)
    most = pipeline.scheduler.config.num_train_timesteps
    if num_inference_steps > most:
        raise VaeLdmError(f"{num_inference_steps:,} steps are too many: this model takes {most:,} at most")
    # At least one step, however small the share.
    num_steps = max(num_inference_steps, min(math.floor(1 / strength) + 1, most))
    if int(num_steps * strength) < 1:
        raise VaeLdmError(
            f"strength is {strength:g}, which is less than one of at most {most:,} steps; "
            f"give 0, or {1 / most:g} or more"
        )
    if not any(prompts) and not options.get("negative_prompt"):
        options["guidance_scale"] = 1.0  # guidance from the empty prompt to itself would change nothing
    image_to_image = _LatentToLatent(**pipeline.components, requires_safety_checker=False)
    # By the number of its channels the processor knows latents, and leaves them as they are.
    image_to_image.image_processor = VaeImageProcessor(vae_latent_channels=latents.shape[1])
    image_to_image.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    with telling_what_is_cut_off(pipeline, prompts, options.get("negative_prompt")):
        return image_to_image(
            prompts,
            image=latents,
            strength=strength,
            num_inference_steps=num_steps,
            num_images_per_prompt=n,
            output_type="latent",
            **options,
        ).images


def check_guidance(guidance_scale: float) -> None:
    """Raise VaeLdmError for a guidance that is not in [0, MAX_GUIDANCE_SCALE]: the pictures would be black."""
    if not 0 <= guidance_scale <= MAX_GUIDANCE_SCALE:
        raise VaeLdmError(f"guidance_scale is {guidance_scale:g}; give a number from 0 to {MAX_GUIDANCE_SCALE:g}")


def warn_of_ignored(pipeline: StableDiffusionPipeline, negative_prompt: Any) -> None:
    """Warn, on behalf of the caller's caller, of a negative prompt that a student does not heed."""
    if negative_prompt and is_student(pipeline.unet):
        warnings.warn(
            "negative_prompt is ignored: guidance lies in the weights of this UNet; its teacher takes one",
            stacklevel=3,
        )


class _LatentToLatent(StableDiffusionImg2ImgPipeline):
    """Image to image that is given latents: diffusers' own takes them only where they have 4 channels."""

    def prepare_latents(
        self,
        image: Tensor,
        timestep: Tensor,
        batch_size: int,
        num_images_per_prompt: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: Generators | None = None,
    ) -> Tensor:
        latents = image.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
        if isinstance(generator, list) and len(generator) != len(latents):
            raise VaeLdmError(
                f"{counted(len(generator), 'generator')} for {counted(len(latents), 'image')}; give one, or one "
                "for each image"
            )
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=dtype)
        return self.scheduler.add_noise(latents, noise, timestep)
