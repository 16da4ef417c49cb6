"""The denoiser: diffusers' UNet2DConditionModel, configured by a named size."""

from typing import Literal, NamedTuple

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

TrainedUNetPart = Literal["all", "attention", "nothing"]

_GUIDANCE_DIM = 64
"""Numbers that a student is told a guidance scale by."""


class UNetSize(NamedTuple):
    """What a named size decides; widths and attention go from the latents' level downwards."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    attention_head_dim: int
    """Width of one head."""
    attends: tuple[bool, ...]
    """Which levels attend to themselves and to the prompt; the middle always does."""
    pools_prompt: bool = False
    """The prompt is also pooled into the time embedding, which scales and shifts every residual block's norm."""


UNET_SIZES = {
    # Attention at the finest level is a third of a step of `tiny`; without it the prompt needs another way there.
    "nano": UNetSize((64, 96, 128), 1, 32, (False, True, False), pools_prompt=True),
    "tiny": UNetSize((64, 96, 128), 1, 32, (True, True, False)),
    "small": UNetSize((128, 192, 256), 2, 32, (True, True, False)),
    "base": UNetSize((192, 384, 576), 2, 64, (True, True, False)),
}


def new_unet(
    size: str, *, latent_channels: int, latent_size: tuple[int, int], cross_attention_dim: int, dropout: float = 0.0
) -> UNet2DConditionModel:
    """A randomly initialised UNet2DConditionModel: latents [B, c, h, w], timesteps [B], prompts [B, L, D] -> latents.

    `size` is a key of UNET_SIZES. As in Stable Diffusion every level but the coarsest attends to the prompt, and so
    does the middle (Rombach 2022, section 3.3); in `nano` only the level between them does, and its residual blocks
    are modulated by the pooled prompt (as in Imagen, Saharia 2022, section 2.3). `dropout` acts in the residual blocks.
    """
    chosen = UNET_SIZES[size]
    pooling = {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": cross_attention_dim // 16 if cross_attention_dim % 16 == 0 else 1,
        "resnet_time_scale_shift": "scale_shift",
    }
    # diffusers calls the number of heads `attention_head_dim` and resolves it a level, so heads are named here.
    return UNet2DConditionModel(
        sample_size=sample_size(latent_size),
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in chosen.attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(chosen.attends)),
        block_out_channels=chosen.block_out_channels,
        layers_per_block=chosen.layers_per_block,
        attention_head_dim=tuple(width // chosen.attention_head_dim for width in chosen.block_out_channels),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=16,
        dropout=dropout,
        **(pooling if chosen.pools_prompt else {}),
    )


def sample_size(latent_size: tuple[int, int]) -> int | tuple[int, int]:
    """The config entry from which StableDiffusionPipeline takes the size that it draws by default."""
    return latent_size[0] if latent_size[0] == latent_size[1] else latent_size


def set_trained_unet_part(unet: UNet2DConditionModel, part: TrainedUNetPart) -> None:
    """Let gradients reach all of the UNet, its self- and cross-attention only, or nothing."""
    unet.requires_grad_(part == "all")
    if part == "attention":
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(bool({"attn1", "attn2"} & set(name.split("."))))


def new_student(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a UNet that is told the guidance scale as well (Meng 2023), and heeds it not at all before training.

    That is diffusers' `time_cond_proj_dim`, with which its pipelines take one pass a step at any guidance. The copy is
    in eval mode: its dropout does nothing, because what it learns is no random target.
    """
    student = UNet2DConditionModel.from_config(unet.config, time_cond_proj_dim=_GUIDANCE_DIM)
    missing = student.load_state_dict(unet.state_dict(), strict=False).missing_keys
    assert missing == ["time_embedding.cond_proj.weight"], missing
    torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.eval()


def is_student(unet: UNet2DConditionModel) -> bool:
    """Whether guidance lies in the UNet's weights."""
    return unet.config.time_cond_proj_dim is not None


def guidance_embedding(unet: UNet2DConditionModel, guidance_scale: Tensor) -> Tensor:
    """The `timestep_cond` [B, D] of a student for scales [B], as diffusers' pipelines give it."""
    embed = StableDiffusionPipeline.get_guidance_scale_embedding
    found = embed(None, guidance_scale.cpu() - 1, embedding_dim=unet.config.time_cond_proj_dim)  # type: ignore[arg-type]
    return found.to(guidance_scale.device)
