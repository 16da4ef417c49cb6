"""Networks of a few weights, saved in the layouts of pretrained ones: f4 autoencoders and a CLIP text encoder."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SD: dict[str, Any] = {"scaling_factor": 0.18215}
FLUX: dict[str, Any] = {
    "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.25, "scaling_factor": 0.5,
}  # fmt: skip
SDXL: dict[str, Any] = {
    "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [2.0, 1.0, 0.5, 4.0], "scaling_factor": 0.5,
}  # fmt: skip


def save_autoencoder(folder: Path, **layout: Any) -> AutoencoderKL:
    """Three levels, and so f4, saved to the folder."""
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        **layout,
    )
    autoencoder.save_pretrained(folder)
    return autoencoder.eval()


@torch.no_grad()
def save_flux2(folder: Path, **layout: Any) -> AutoencoderKLFlux2:
    """FLUX.2's class with f8 and 32 channels, as the published one, and a BatchNorm whose statistics all differ."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "sample_size": 64}
    autoencoder = AutoencoderKLFlux2(layers_per_block=1, **small | layout)
    autoencoder.bn.running_mean.copy_(torch.randn(128))
    autoencoder.bn.running_var.copy_(torch.rand(128) + 0.5)
    autoencoder.save_pretrained(folder)
    return autoencoder.eval()


@torch.no_grad()
def latents_for_the_unet(before: AutoencoderKL, images: Tensor, layout: dict[str, Any]) -> Tensor:
    """What the layout's own pipelines hand to their UNet or transformer, from the weights as they came."""
    mean = before.encode(images).latent_dist.mean
    if "latents_mean" in layout:
        shift, spread = (torch.tensor(layout[key]).view(1, 4, 1, 1) for key in ("latents_mean", "latents_std"))
        return (mean - shift) * layout["scaling_factor"] / spread
    return (mean - layout.get("shift_factor", 0.0)) * layout["scaling_factor"]


def save_clip(folder: Path, tokenizer_folder: str = "", encoder_folder: str = "") -> CLIPTextModel:
    """A tiny CLIP text encoder and its sub-word tokenizer, laid out as on the Hub."""
    torch.manual_seed(0)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "t": 3, "in</w>": 4, "tin</w>": 5, "i": 6}
    vocabulary |= {"n</w>": 7, "a": 8, "n": 9}
    merges = [("i", "n</w>"), ("t", "in</w>")]
    (folder / tokenizer_folder).mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=12)
    tokenizer.save_pretrained(folder / tokenizer_folder)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12,
    )  # fmt: skip
    encoder = CLIPTextModel(config)
    encoder.save_pretrained(folder / encoder_folder)
    return encoder
