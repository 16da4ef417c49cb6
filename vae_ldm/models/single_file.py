"""An autoencoder in one .safetensors file with the key names of CompVis' latent-diffusion, as diffusers opens it."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vae_ldm.errors import WeightsError, first_line
from vae_ldm.models.pretrained import first_of

_PREFIXES = ("first_stage_model.", "vae.")
"""Of the autoencoder's keys in a file that holds a whole model."""
_SCALING = {
    True: {"scaling_factor": 0.18215},
    False: {"scaling_factor": 0.3611, "shift_factor": 0.1159},
}
"""By whether there are quant convs: Stable Diffusion's factor (Rombach 2022, appendix G), and FLUX's."""


def load_single_file(file: Path) -> AutoencoderKL:
    """The AutoencoderKL in a file of Stable Diffusion, SDXL or FLUX's original layout, in float32 and eval mode.

    The file holds no configuration: it follows from the shapes of the weights, but for the scaling factor, which is
    that of Stable Diffusion, or FLUX's where there are no quant convs. Nothing is downloaded. Raises WeightsError
    where the file is no such autoencoder, or lacks a weight.
    """
    tensors = _without_values(file)
    try:
        config = _config(tensors)
    except KeyError as error:
        raise WeightsError(
            f"{file}: is no autoencoder with the key names of latent-diffusion (it has no {error.args[0]}); "
            "give a folder made by save_pretrained"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        config_file = json.dumps({"_class_name": "AutoencoderKL"} | config)
        (Path(folder) / "config.json").write_text(config_file, encoding="utf-8")
        try:
            autoencoder = AutoencoderKL.from_single_file(str(file), config=folder)
        except NotImplementedError as error:  # a weight that the file lacks is still on the meta device
            missing = sorted(AutoencoderKL(**config).state_dict().keys() - convert_ldm_vae_checkpoint(tensors, config))
            raise WeightsError(f"{file}: weights of AutoencoderKL are missing ({first_of(missing)})") from error
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise WeightsError(f"{file}: cannot be opened as AutoencoderKL: {first_line(error)}") from error
    return autoencoder.float().eval()


def _without_values(file: Path) -> dict[str, Tensor]:
    """Every tensor of the autoencoder on the meta device, by its name less the prefix that it has in a whole model."""
    try:
        with safe_open(file, "pt") as weights:
            names = list(weights.keys())
            tensors = {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in names}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: is damaged, or no safetensors file ({error})") from error
    for prefix in _PREFIXES:
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if own:
            return own
    return tensors


def _config(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What AutoencoderKL must be told for these weights; KeyError names a weight that no such file lacks."""
    in_channels = tensors["encoder.conv_in.weight"].shape[1]
    latent_channels = tensors["decoder.conv_in.weight"].shape[1]
    num_levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    widths = [tensors[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(num_levels)]
    has_quant_convs = "quant_conv.weight" in tensors
    return {
        "in_channels": in_channels,
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * num_levels,
        "up_block_types": ["UpDecoderBlock2D"] * num_levels,
        "block_out_channels": widths,
        "layers_per_block": _count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": latent_channels,
        "norm_num_groups": 32,  # the same in every model of that code
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in tensors,
        "use_quant_conv": has_quant_convs,
        "use_post_quant_conv": has_quant_convs,
        **_SCALING[has_quant_convs],
    }


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})
