"""FLUX.2's autoencoder as an AutoencoderKL: the same encoder and decoder, without its BatchNorm over patches.

FLUX.2's pipeline joins 2x2 latents of 32 channels to one of 128 channels and normalises those (diffusers'
AutoencoderKLFlux2 and Flux2Pipeline). What differs between the four places of a patch cannot be folded into a 1x1
convolution, so the BatchNorm's statistics are pooled to one mean and standard deviation a channel.
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from torch import Tensor

from vae_ldm.errors import WeightsError
from vae_ldm.models.stored_config import read_config
from vae_ldm.models.stored_weights import first_of, tensors_in

_CLASS_NAME = "AutoencoderKLFlux2"
_PREFIX = "bn."
_MEAN, _VARIANCE = "bn.running_mean", "bn.running_var"
_DEFAULT_EPS = 1e-4
_DEFAULT_PATCH_SIZE = (2, 2)
_RENAMED = {
    f"{side}.{name}.{kind}": f"{name}.{kind}"
    for side, name in (("encoder", "quant_conv"), ("decoder", "post_quant_conv"))
    for kind in ("weight", "bias")
}
"""Names in FLUX.2's single file that differ from those of FLUX's and Stable Diffusion's."""


def is_flux2(source: Path) -> bool:
    """Whether a folder's config.json, or the weights of a single file, are those of FLUX.2's autoencoder.

    Raises WeightsError where the configuration is no JSON, or the file no safetensors file.
    """
    if source.is_file():
        return is_flux2_file(tensors_in(source))
    return (source / "config.json").is_file() and read_config(source / "config.json").get("_class_name") == _CLASS_NAME


def is_flux2_file(names: Iterable[str]) -> bool:
    """Whether the names of a single file's weights are those of FLUX.2's autoencoder."""
    return not {_MEAN, *_RENAMED}.isdisjoint(names)


def check_decoder(folder: Path) -> None:
    """Raise WeightsError where the decoder has other widths than the encoder, which AutoencoderKL cannot have."""
    config = read_config(folder / "config.json")
    decoder, encoder = config.get("decoder_block_out_channels"), config.get("block_out_channels")
    if decoder is not None and decoder != encoder:
        raise WeightsError(
            f"{folder}: its decoder has widths of its own (decoder_block_out_channels {decoder!r:.60}), which "
            "AutoencoderKL cannot have; take FLUX.2's full decoder, such as subfolder vae of "
            "black-forest-labs/FLUX.2-klein-4B"
        )


def with_patch_statistics(autoencoder: AutoencoderKL, folder: Path) -> AutoencoderKL:
    """The autoencoder, whose config then holds the statistics of the BatchNorm in the folder, pooled to one a channel.

    `latents_mean` and `latents_std` are what the latents have on FLUX.2's own pictures, `scaling_factor` is 1, and what
    only FLUX.2's config has is gone. Raises WeightsError where the statistics are missing, mis-shaped or no numbers, or
    the folder holds weights that are neither the BatchNorm's nor an AutoencoderKL's.
    """
    held: dict[str, Path] = {name: file for file in sorted(folder.glob("*.safetensors")) for name in tensors_in(file)}
    own = autoencoder.state_dict()
    check_no_others(folder, [name for name in held if name not in own])
    statistics = {}
    for name in (_MEAN, _VARIANCE):
        if name not in held:
            raise _missing(folder, name)
        with safe_open(held[name], "pt") as weights:
            statistics[name] = weights.get_tensor(name)
    config = read_config(folder / "config.json")
    settings = {"eps": config.get("batch_norm_eps", _DEFAULT_EPS)}
    settings["patch_size"] = config.get("patch_size", _DEFAULT_PATCH_SIZE)
    plain = _without_foreign_settings(autoencoder)
    _register(plain, folder, statistics, **settings)
    return plain


def _without_foreign_settings(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """The same weights in an AutoencoderKL whose config has no key that AutoencoderKL would warn of."""
    known = inspect.signature(AutoencoderKL.__init__).parameters
    with torch.device("meta"):
        plain = AutoencoderKL(**{key: value for key, value in autoencoder.config.items() if key in known})
    plain.load_state_dict(autoencoder.state_dict(), assign=True)
    return plain.train(autoencoder.training)


def check_no_others(where: Path, names: Iterable[str]) -> None:
    """Raise WeightsError for a weight beside those of an AutoencoderKL that is not the BatchNorm's."""
    others = sorted(name for name in names if not name.startswith(_PREFIX))
    if others:
        raise WeightsError(
            f"{where}: holds weights that AutoencoderKL does not have ({first_of(others)}); "
            "fetch the autoencoder of FLUX.2 again"
        )


def with_latent_diffusion_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of FLUX.2's single file by the names of Stable Diffusion's and FLUX's, the BatchNorm left out."""
    return {_RENAMED.get(name, name): tensor for name, tensor in tensors.items() if not name.startswith(_PREFIX)}


def take_statistics_of_file(autoencoder: AutoencoderKL, file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Store the statistics of a single file's weights in the autoencoder's config, as `with_patch_statistics` does.

    The file names neither epsilon nor patch size; those of FLUX.2 are taken.
    """
    for name in (_MEAN, _VARIANCE):
        if name not in tensors:
            raise _missing(file, name)
    statistics = {name: tensors[name] for name in (_MEAN, _VARIANCE)}
    _register(autoencoder, file, statistics, eps=_DEFAULT_EPS, patch_size=_DEFAULT_PATCH_SIZE)


def _missing(where: Path, name: str) -> WeightsError:
    return WeightsError(
        f"{where}: weights of {_CLASS_NAME} are missing ({name}); save the model again with save_pretrained"
    )


def _register(
    autoencoder: AutoencoderKL, where: Path, statistics: Mapping[str, Tensor], *, eps: Any, patch_size: Any
) -> None:
    channels = autoencoder.config.latent_channels
    places = math.prod(patch_size)
    for name, values in statistics.items():
        if values.shape != (channels * places,):
            raise WeightsError(
                f"{where}: weights of {_CLASS_NAME} are mis-shaped ({name} is {list(values.shape)}, but "
                f"{[channels * places]} is wanted); save the model again with save_pretrained"
            )
    # Channel by channel, and within one the places of a patch: `_patchify_latents` of diffusers' Flux2Pipeline.
    mean = statistics[_MEAN].double().view(channels, places)
    variance = statistics[_VARIANCE].double().view(channels, places) + eps
    pooled = variance.mean(dim=1) + mean.var(dim=1, correction=0)
    for name, usable in ((_MEAN, mean.isfinite()), (_VARIANCE, pooled.isfinite() & (pooled > 0))):
        if not bool(torch.all(usable)):
            raise WeightsError(
                f"{where}: weights of {_CLASS_NAME} are NaN, infinite or negative ({name}); "
                "fetch or save the model again"
            )
    autoencoder.register_to_config(
        scaling_factor=1.0,
        shift_factor=None,
        latents_mean=mean.mean(dim=1).tolist(),
        latents_std=pooled.sqrt().tolist(),
    )
