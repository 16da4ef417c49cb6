"""Low-rank updates of a UNet: peft trains them, diffusers' own file holds them, any diffusers loads them."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors import SafetensorError, safe_open

from vae_ldm.errors import WeightsError, first_line

LORA_FILE = "pytorch_lora_weights.safetensors"
_ADAPTER = "default"
_NOTED = ("r", "lora_alpha", "lora_dropout", "base_model_name_or_path", "revision")


class LoraBase(NamedTuple):
    """The weights that a LoRA belongs to: a folder or a name of the Hub, and its revision."""

    source: str
    revision: str | None


def add_lora(
    unet: UNet2DConditionModel,
    *,
    rank: int,
    alpha: float | None,
    dropout: float,
    target_modules: Sequence[str],
    base: LoraBase,
) -> None:
    """Freeze the UNet and give the layers that `target_modules` name or end with an update of this rank, at first zero.

    Raises WeightsError where no layer has such a name.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or rank,  # type: ignore[arg-type]  # any number, in spite of its annotation
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=list(target_modules),
        revision=base.revision,
    )
    unet.requires_grad_(False)
    try:
        unet.add_adapter(config, adapter_name=_ADAPTER)
    except ValueError as error:
        layers = sorted({name.rpartition(".")[2] for name, module in unet.named_modules() if hasattr(module, "weight")})
        raise WeightsError(
            f"diffusion.lora.target_modules: the UNet has no layers {', '.join(target_modules)} that can be updated; "
            f"it has {', '.join(layers)}"
        ) from error
    config.base_model_name_or_path = base.source  # which diffusers has just cleared


def save_lora(unet: UNet2DConditionModel, folder: Path) -> Path:
    """The file written: `load_lora_weights(folder)` of any Stable Diffusion pipeline of diffusers opens it.

    Each up matrix is multiplied by alpha / rank, and alpha is noted as equal to the rank: a program that does not read
    diffusers' notes would take the scale for 1 and draw another picture.
    """
    from peft.utils import get_peft_model_state_dict

    # No more than is needed: an older peft refuses settings that it does not know. In order, because a set's order
    # differs from process to process.
    config = unet.peft_config[_ADAPTER].to_dict()
    metadata = {key: config[key] for key in _NOTED} | {"target_modules": sorted(config["target_modules"])}
    scale = metadata["lora_alpha"] / metadata["r"]
    metadata["lora_alpha"] = metadata["r"]
    updates = {
        name: matrix * scale if "lora_B" in name else matrix
        # A UNet has no embedding layers; left to decide for itself, peft asks the Hub for the base's config.json.
        for name, matrix in get_peft_model_state_dict(unet, adapter_name=_ADAPTER, save_embedding_layers=False).items()
    }
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=convert_state_dict_to_diffusers(updates),
        unet_lora_adapter_metadata=metadata,
        safe_serialization=True,
    )
    return folder / LORA_FILE


def lora_base(file: Path) -> LoraBase:
    """What the LoRA in `file` was trained on, as `save_lora` noted it. Raises WeightsError where it does not say."""
    try:
        with safe_open(file, "pt") as opened:
            notes = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise WeightsError(f"{file}: cannot be read as a LoRA: {first_line(error)}") from error
    notes = notes if isinstance(notes, dict) else {}
    source = notes.get("unet.base_model_name_or_path")
    if not source or not isinstance(source, str):
        raise WeightsError(f"{file}: does not say which pipeline it belongs to; load it with load_lora_weights")
    revision = notes.get("unet.revision")
    return LoraBase(source, revision if isinstance(revision, str) else None)


def has_lora(unet: UNet2DConditionModel) -> bool:
    """Whether the UNet has updates beside its weights."""
    return bool(getattr(unet, "peft_config", None))


def merged(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of the UNet with its updates added to its weights: a plain UNet2DConditionModel."""
    plain = copy.deepcopy(unet)
    plain.fuse_lora()
    plain.unload_lora()
    return plain
