"""Checks weights that somebody else wrote, for shapes that do not fit their configuration and for NaN and infinity."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vae_ldm.errors import WeightsError

_LOADED = tuple(
    f"{stem}{part}.safetensors" for stem in ("model", "diffusion_pytorch_model") for part in ("", "-?????-of-?????")
)
"""The files of a folder that diffusers and transformers load, in which `?` is a character of a shard's number."""
_PREFIX = "text_model."
"""Stands before the names of a CLIP's text weights in some files, and in some versions of transformers."""


def check_weights(model_class: type[nn.Module], folder: Path) -> None:
    """Raise WeightsError where the files of the folder hold other weights than its configuration wants.

    It names the file, and the tensor that has another shape or holds no fractions. The network is built without memory,
    on torch's meta device, and of the files the headers are read: a library would take the memory first.
    """
    with torch.device("meta"):
        if hasattr(model_class, "load_config"):  # diffusers
            network = model_class.from_config(model_class.load_config(str(folder)))  # type: ignore[attr-defined]
        else:
            network = model_class(model_class.config_class.from_pretrained(str(folder)))  # type: ignore[attr-defined]
    wanted = {name.removeprefix(_PREFIX): tensor for name, tensor in network.named_parameters()}
    count = sum(parameter.numel() for parameter in wanted.values())
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if count > held:  # a weight takes a byte at the least
        raise WeightsError(
            f"{folder}: its config.json describes {count:,} weights, but its files hold {held:,} bytes; "
            "one of them belongs to another model"
        )
    for file in sorted(file for pattern in _LOADED for file in folder.glob(pattern)):
        wrong = list(_wrong(tensors_in(file), wanted))
        if wrong:
            raise WeightsError(
                f"{file}: weights of {model_class.__name__} are mis-shaped ({first_of(wrong)}); "
                "save the model again with save_pretrained"
            )


def tensors_in(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file by its name, on the meta device: none of its values is read.

    Raises WeightsError where the file's header is damaged.
    """
    try:
        with safe_open(file, "pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118  # it is no mapping
            return {
                name: torch.empty(part.get_shape(), dtype=_dtype(part.get_dtype()), device="meta")
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        if _is_no_utf8(file):
            raise WeightsError(f"{file}: safetensors only opens paths that are UTF-8; rename the folder") from error
        raise WeightsError(f"{file}: is damaged, or not a safetensors file ({error})") from error


def _is_no_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return True
    return False


def check_numbers(network: nn.Module, where: object) -> None:
    """Raise WeightsError, beginning with `where`, for a weight that no file held, or that is NaN or infinite."""
    weights = dict(network.named_parameters())
    missing = [name for name, weight in weights.items() if weight.is_meta]
    check_none_missing(missing, network, where)
    wrong = [name for name, weight in weights.items() if not bool(torch.isfinite(weight).all())]
    if wrong:
        raise WeightsError(
            f"{where}: weights of {type(network).__name__} are NaN or infinite ({first_of(wrong)}); "
            "fetch or save the model again"
        )


def check_none_missing(missing: Sequence[str], network: nn.Module, where: object) -> None:
    """Raise WeightsError, beginning with `where`, that names the weights that are missing, where there are any."""
    if missing:
        raise WeightsError(
            f"{where}: weights of {type(network).__name__} are missing ({first_of(missing)}); "
            "save the model again with save_pretrained"
        )


def first_of(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _wrong(tensors: dict[str, Tensor], wanted: dict[str, nn.Parameter]) -> Iterator[str]:
    """What is wrong with each tensor that the network has under the same name; a library may rename others."""
    for name, tensor in tensors.items():
        expected = wanted.get(name.removeprefix(_PREFIX))
        if expected is None:
            continue
        if tensor.shape != expected.shape:
            yield f"{name} is {list(tensor.shape)}, but its config.json wants {list(expected.shape)}"
        elif not tensor.is_floating_point():
            yield f"{name} holds {str(tensor.dtype).removeprefix('torch.')}"


def _dtype(name: str) -> torch.dtype:
    """torch's type for that of a safetensors header; an unknown one is taken for bytes, which no weight is."""
    return _TYPES.get(name, torch.uint8)


_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
}
