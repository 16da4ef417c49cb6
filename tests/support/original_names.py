"""The weights of an AutoencoderKL as CompVis' latent-diffusion stores them."""

from diffusers import AutoencoderKL
from torch import Tensor

ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_names(autoencoder: AutoencoderKL) -> dict[str, Tensor]:
    """The weights under the names, and in the shapes, that CompVis' code gives them."""
    last = len(autoencoder.config.block_out_channels) - 1
    weights = {}
    for name, value in autoencoder.state_dict().items():
        side, *path = name.split(".")
        match path:
            case ["down_blocks", level, "resnets", number, *rest]:
                path = ["down", level, "block", number, *rest]
            case ["down_blocks", level, "downsamplers", "0", *rest]:
                path = ["down", level, "downsample", *rest]
            case ["up_blocks", level, "resnets", number, *rest]:
                path = ["up", str(last - int(level)), "block", number, *rest]
            case ["up_blocks", level, "upsamplers", "0", *rest]:
                path = ["up", str(last - int(level)), "upsample", *rest]
            case ["mid_block", "resnets", number, *rest]:
                path = ["mid", f"block_{int(number) + 1}", *rest]
            case ["mid_block", "attentions", "0", *between, kind]:
                path = ["mid", "attn_1", ATTENTION[".".join(between)], kind]
                value = value[:, :, None, None] if value.ndim == 2 else value
        original = ".".join([side, *path])
        for ours, theirs in (("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut")):
            original = original.replace(ours, theirs)
        weights[original] = value.clone()
    return weights
