"""The autoencoder: diffusers' AutoencoderKL, configured by a named size or loaded from a folder or the Hub."""

from pathlib import Path
from typing import NamedTuple

from diffusers import AutoencoderKL
from torch import nn

from vae_ldm.choices import TrainedPart
from vae_ldm.models.flux2 import check_decoder, is_flux2, with_patch_statistics
from vae_ldm.models.pretrained import check_no_pickle, errors_of_libraries, load_pretrained
from vae_ldm.models.single_file import load_single_file


class AutoencoderSize(NamedTuple):
    """Widths of the levels from the picture downwards; as many are used as the downsampling factor asks for."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int


AUTOENCODER_SIZES = {
    "tiny": AutoencoderSize((16, 32, 64, 64, 64), 1, 8),
    "compact": AutoencoderSize((16, 32, 64, 96, 96), 1, 8),
    "small": AutoencoderSize((64, 128, 128, 128, 256), 2, 16),
    "sd": AutoencoderSize((128, 256, 512, 512, 512), 2, 32),
}


def new_autoencoder(
    size: str, *, downsample_factor: int, latent_channels: int, image_channels: int, image_size: tuple[int, int]
) -> AutoencoderKL:
    """A randomly initialised AutoencoderKL: [B, image_channels, H, W] in [-1, 1] <-> [B, latent_channels, H/f, W/f].

    `size` is a key of AUTOENCODER_SIZES; "sd" at f8 with 4 channels is the layout of Stable Diffusion 1.5
    (Rombach 2022, appendix G). `downsample_factor` is a power of two.
    """
    widths, layers_per_block, norm_num_groups = AUTOENCODER_SIZES[size]
    num_levels = downsample_factor.bit_length()
    return AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        block_out_channels=widths[:num_levels],
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        sample_size=max(image_size),
        scaling_factor=1.0,
        force_upcast=False,
    )


def load_autoencoder_kl(source: str, *, revision: str | None = None, subfolder: str | None = None) -> AutoencoderKL:
    """A pretrained AutoencoderKL in float32, from a folder, the Hub or a single file of the original layout.

    FLUX.2's becomes one whose config holds the statistics of its BatchNorm, pooled to one mean and standard deviation a
    channel. Safetensors only. Raises WeightsError where the weights are missing, incomplete, mis-shaped or pickled.
    """
    if Path(source).is_file():
        check_no_pickle(Path(source))
        return load_single_file(Path(source))
    folder = Path(source) / (subfolder or "")
    if not is_flux2(folder):
        return load_pretrained(AutoencoderKL, source, revision=revision, subfolder=subfolder)
    check_decoder(folder)
    autoencoder = load_pretrained(AutoencoderKL, source, subfolder=subfolder)
    with errors_of_libraries(f"{folder}: its BatchNorm cannot be read"):
        return with_patch_statistics(autoencoder, folder)


def downsample_factor(autoencoder: AutoencoderKL) -> int:
    """Pixels a side for one latent position."""
    return 2 ** (len(autoencoder.config.block_out_channels) - 1)


def set_trained_part(autoencoder: AutoencoderKL, part: TrainedPart) -> None:
    """Let gradients reach all of the autoencoder, its decoder only (every old latent stays valid), or nothing."""
    autoencoder.requires_grad_(part == "all")
    if part == "decoder":
        trained: list[nn.Module] = [autoencoder.decoder]
        if autoencoder.post_quant_conv is not None:
            trained.append(autoencoder.post_quant_conv)
        for module in trained:
            module.requires_grad_(True)
