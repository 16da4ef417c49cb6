"""Tiny random models saved in exactly the layouts that people start from."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AutoTokenizer

from tests.support.small_networks import save_clip

SD: dict[str, Any] = {"scaling_factor": 0.18215}
FLUX: dict[str, Any] = {
    "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.25, "scaling_factor": 0.5,
    "latent_channels": 16,
}  # fmt: skip
SDXL: dict[str, Any] = {"scaling_factor": 0.13025, "force_upcast": True}
SDXL_STATISTICS: dict[str, Any] = SDXL | {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [2.0, 1.0, 0.5, 4.0]}
LAYOUTS = {"sd": SD, "sdxl": SDXL, "sdxl with statistics": SDXL_STATISTICS, "flux": FLUX}


def save_autoencoder(folder: Path, **layout: Any) -> AutoencoderKL:
    """Four levels, and so f8, with two layers a block, as all of these have; a few channels each."""
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=512,
        **layout,
    )
    autoencoder.save_pretrained(folder)
    return autoencoder.eval()


def save_stable_diffusion(folder: Path, scheduler: SchedulerMixin | None = None, **unet: Any) -> Path:
    """Stable Diffusion 1.5 in small: its parts, their order, its scheduler, and a safety checker in the index."""
    text_encoder = save_clip(folder, "tokenizer", "text_encoder")
    network = UNet2DConditionModel(
        **{
            "sample_size": 64,
            "block_out_channels": (8, 8, 16, 16),
            "layers_per_block": 2,
            "attention_head_dim": 2,
            "cross_attention_dim": 32,
            "norm_num_groups": 4,
            **unet,
        }
    )
    StableDiffusionPipeline(
        vae=save_autoencoder(folder / "vae", **SD),
        text_encoder=text_encoder,
        tokenizer=AutoTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        unet=network,
        scheduler=scheduler
        or PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    index = folder / "model_index.json"
    checker = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    index.write_text(json.dumps(json.loads(index.read_text()) | checker))
    return folder
