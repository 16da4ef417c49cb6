"""Pictures from prompts and seeds, each the same whatever else is drawn beside it."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from vae_ldm.errors import VaeLdmError
from vae_ldm.text import shown


def sample_images(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
) -> list[np.ndarray]:
    """One uint8 picture [H, W, C] a prompt, each from its own seed, whatever else is in the batch."""
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    result = pipeline(
        list(prompts),
        height=height * pipeline.vae_scale_factor,
        width=width * pipeline.vae_scale_factor,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        output_type="np",
    )
    return [np.round(image * 255).astype(np.uint8) for image in result.images]


def check_prompt(prompt: str) -> None:
    """Raise VaeLdmError where the prompt is no Unicode text: bytes of another encoding on the command line."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise VaeLdmError(f"the prompt {shown(prompt)} is not UTF-8; type it in a UTF-8 terminal") from None


def unknown_words(pipeline: StableDiffusionPipeline, prompt: str) -> list[str]:
    """Words of the prompt, once each, that a word-level tokenizer does not know; a sub-word tokenizer knows all."""
    unknown_id = pipeline.tokenizer.unk_token_id
    if unknown_id is None or unknown_id == pipeline.tokenizer.eos_token_id:
        return []
    words = dict.fromkeys(re.findall(r"\w+", prompt))  # as the tokenizer splits them, without punctuation
    return [word for word in words if unknown_id in pipeline.tokenizer(word).input_ids]
