"""The denoiser: diffusers' UNet2DConditionModel, configured by a named size."""

from typing import Literal, NamedTuple

from diffusers import UNet2DConditionModel

TrainedUNetPart = Literal["all", "attention", "nothing"]


class UNetSize(NamedTuple):
    """Widths of the levels from the latents downwards, and the width of one attention head."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    attention_head_dim: int


UNET_SIZES = {
    "nano": UNetSize((48, 96, 128), 1, 16),
    "tiny": UNetSize((64, 96, 128), 1, 32),
    "small": UNetSize((128, 192, 256), 2, 32),
    "base": UNetSize((192, 384, 576), 2, 64),
}


def new_unet(
    size: str, *, latent_channels: int, latent_size: tuple[int, int], cross_attention_dim: int, dropout: float = 0.0
) -> UNet2DConditionModel:
    """A randomly initialised UNet2DConditionModel: latents [B, c, h, w], timesteps [B], prompts [B, L, D] -> latents.

    `size` is a key of UNET_SIZES. As in Stable Diffusion every level but the coarsest attends to the prompt, and so
    does the middle (Rombach 2022, section 3.3). `dropout` acts in the residual blocks.
    """
    widths, layers_per_block, attention_head_dim = UNET_SIZES[size]
    num_attending = len(widths) - 1
    # diffusers calls the number of heads `attention_head_dim` and resolves it a level, so heads are named here.
    return UNet2DConditionModel(
        sample_size=sample_size(latent_size),
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * num_attending + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * num_attending,
        block_out_channels=widths,
        layers_per_block=layers_per_block,
        attention_head_dim=tuple(width // attention_head_dim for width in widths),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=16,
        dropout=dropout,
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
