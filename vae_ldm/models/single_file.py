"""An autoencoder in one .safetensors file with the key names of CompVis' latent-diffusion, as diffusers opens it."""

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from torch import Tensor

from vae_ldm.errors import WeightsError, first_line
from vae_ldm.models import flux2
from vae_ldm.models.stored_weights import check_numbers, first_of, tensors_in

_PREFIXES = ("first_stage_model.", "vae.")
"""Prefixes of the autoencoder's keys in a file that holds a whole model."""


class KnownScaling(NamedTuple):
    """What a published autoencoder's config says that its single file does not."""

    name: str
    scaling_factor: float
    shift_factor: float | None = None


_KNOWN = {
    True: (KnownScaling("Stable Diffusion", 0.18215), KnownScaling("SDXL", 0.13025)),
    False: (KnownScaling("FLUX", 0.3611, 0.1159), KnownScaling("Stable Diffusion 3", 1.5305, 0.0609)),
}
"""Published scalings, by whether there are quant convs; the first is assumed where nothing can be measured."""
_LARGEST_RATIO = 1.5
"""Between 1 and the standard deviation that a known factor leaves; those of SD and SDXL differ by 1.4."""


def known_scalings(autoencoder: AutoencoderKL) -> tuple[KnownScaling, ...]:
    """The published factors of autoencoders with these layers, which nothing in the weights tells apart."""
    return _KNOWN[autoencoder.quant_conv is not None]


def measured_scaling(autoencoder: AutoencoderKL, mean: float, std: float) -> KnownScaling:
    """The published scaling that brings latents of this mean and standard deviation nearest to unit variance.

    Where none comes within a factor of 1.5, the one that does so exactly.
    """

    def ratio(known: KnownScaling) -> float:
        return abs(math.log(std * known.scaling_factor))

    nearest = min(known_scalings(autoencoder), key=ratio)
    if ratio(nearest) <= math.log(_LARGEST_RATIO):
        return nearest
    return KnownScaling("none that is known", 1 / std, mean if autoencoder.config.shift_factor else None)


def load_single_file(file: Path) -> AutoencoderKL:
    """The AutoencoderKL in a file of Stable Diffusion, SDXL, FLUX or FLUX.2's original layout, in float32, eval mode.

    The file holds no configuration: it follows from the shapes of the weights, but for the scaling factor, which is
    assumed to be that of Stable Diffusion, or FLUX's where there are no quant convs (`measured_scaling` tells by
    photos). FLUX.2's has statistics. Nothing is downloaded. Raises WeightsError where the file is no such
    autoencoder, or lacks a weight.
    """
    tensors = _of_autoencoder(tensors_in(file))
    if is_flux2 := flux2.is_flux2_file(tensors):
        tensors = flux2.with_latent_diffusion_names(tensors)
    if any(".down_blocks." in name for name in tensors):
        raise WeightsError(f"{file}: is the weights file of a diffusers folder; give the folder that it lies in")
    try:
        config = _config(tensors)
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"{file}: is no autoencoder with the key names of latent-diffusion (it has no {error.args[0]}); "
            "give a folder made by save_pretrained"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        config_file = json.dumps({"_class_name": "AutoencoderKL"} | config)
        (Path(folder) / "config.json").write_text(config_file, encoding="utf-8")
        try:
            values = _of_autoencoder(load_file(file)) if is_flux2 else None
            original: Any = str(file) if values is None else flux2.with_latent_diffusion_names(values)
            autoencoder = AutoencoderKL.from_single_file(original, config=folder)
        except NotImplementedError as error:  # a weight that the file lacks is still on the meta device
            missing = sorted(AutoencoderKL(**config).state_dict().keys() - convert_ldm_vae_checkpoint(tensors, config))
            raise WeightsError(f"{file}: weights of AutoencoderKL are missing ({first_of(missing)})") from error
        except Exception as error:  # whatever the library stumbles over
            raise WeightsError(f"{file}: cannot be opened as AutoencoderKL: {first_line(error)}") from error
    check_numbers(autoencoder, file)
    if values is not None:
        flux2.take_statistics_of_file(autoencoder, file, values)
    return autoencoder.float().eval()


def _of_autoencoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of the autoencoder, by its name less the prefix that it has in a whole model."""
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
    assumed = _KNOWN[has_quant_convs][0]
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
        "scaling_factor": assumed.scaling_factor,
        "shift_factor": assumed.shift_factor,
    }


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})
