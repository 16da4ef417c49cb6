"""Configurations that somebody else wrote, checked before any library acts on them.

A number in a config.json decides how much memory is taken and how often a loop runs, so each has a bound that no model
in use comes near; what a config leaves out keeps the library's default.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from vae_ldm.errors import WeightsError, first_line

Kind = Literal["autoencoder", "unet", "text_encoder", "scheduler"]

_MAX_BYTES = 2**22
"""Most bytes of a JSON file; Stable Diffusion's longest has two kilobytes."""

_ORIGIN = ("_name_or_path", "name_or_path")
"""Where diffusers and transformers note what a model was loaded from."""

_Count = Annotated[int, Field(ge=1, le=512)]
"""A number of layers or heads."""
_Width = Annotated[int, Field(ge=1, le=2**16)]
_Side = Annotated[int, Field(ge=1, le=2**14)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Levels = Annotated[list[_Width], Field(min_length=1, max_length=16)]
_Blocks = Annotated[list[str], Field(min_length=1, max_length=16)]
_CountALevel = _Count | Annotated[list[_Count | list[_Count]], Field(min_length=1, max_length=16)]
_Sample = _Side | Annotated[list[_Side], Field(min_length=2, max_length=2)] | None


_SCHEMAS: dict[Kind, dict[str, Any]] = {
    "autoencoder": {
        "in_channels": _Width,
        "out_channels": _Width,
        "latent_channels": _Width,
        "down_block_types": _Blocks,
        "up_block_types": _Blocks,
        "block_out_channels": _Levels,
        "layers_per_block": _Count,
        "norm_num_groups": _Width,
        "sample_size": _Sample,
        "scaling_factor": _Positive,
        "shift_factor": _Number | None,
        "latents_mean": list[_Number] | None,
        "latents_std": list[_Positive] | None,
        "batch_norm_eps": Annotated[float, Field(ge=0, le=1)],
        "patch_size": Annotated[list[Annotated[int, Field(ge=1, le=16)]], Field(min_length=2, max_length=2)],
        "decoder_block_out_channels": _Levels | None,
    },
    "unet": {
        "in_channels": _Width,
        "out_channels": _Width,
        "down_block_types": _Blocks,
        "up_block_types": _Blocks,
        "block_out_channels": _Levels,
        "layers_per_block": _CountALevel,
        "transformer_layers_per_block": _CountALevel,
        "attention_head_dim": _CountALevel,
        "num_attention_heads": _CountALevel | None,
        "cross_attention_dim": _Width | Annotated[list[_Width], Field(min_length=1, max_length=16)],
        "norm_num_groups": _Width | None,
        "sample_size": _Sample,
        "dropout": _Share,
    },
    "text_encoder": {
        "hidden_size": _Width,
        "intermediate_size": _Width,
        "projection_dim": _Width,
        "num_hidden_layers": _Count,
        "num_attention_heads": _Count,
        "vocab_size": Annotated[int, Field(ge=1, le=10**7)],
        "max_position_embeddings": _Width,
    },
    "scheduler": {
        "num_train_timesteps": Annotated[int, Field(ge=1, le=10_000)],
        "beta_start": _Share,
        "beta_end": _Share,
        "trained_betas": Annotated[list[_Share], Field(max_length=10_000)] | None,
        "_vae_ldm_num_inference_steps": Annotated[int, Field(ge=1, le=1000)],
        "_vae_ldm_guidance_scale": Annotated[float, Field(ge=0, le=1000)],
    },
}
_ADAPTERS = {kind: {key: TypeAdapter(of) for key, of in schema.items()} for kind, schema in _SCHEMAS.items()}


def read_config(file: Path) -> dict[str, Any]:
    """The JSON object in a file of somebody else's. Raises WeightsError where it is no JSON, or above 4 MB."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise WeightsError(f"{file}: is larger than {_MAX_BYTES:,} bytes; a configuration is not")
        config = json.loads(content)
    except FileNotFoundError:
        raise WeightsError(f"{file}: is missing; save the model again with save_pretrained") from None
    except RecursionError:
        raise WeightsError(f"{file}: is nested too deeply for a configuration") from None
    except (OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{file}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{file}: holds no JSON object")
    return config


def without_origin(text: str) -> str:
    """A configuration's text without the libraries' note of where its model was loaded from: a path of this machine.

    >>> without_origin('{"_name_or_path": "/home/anna/vae", "latent_channels": 4}')
    '{\\n  "latent_channels": 4\\n}\\n'
    """

    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if key not in _ORIGIN}

    config = json.loads(text, object_pairs_hook=kept)
    return text if config == json.loads(text) else json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def forget_origin(folder: Path) -> None:
    """Take the note of where a model was loaded from out of every configuration in the folder."""
    for file in folder.rglob("*.json"):
        if is_config(file.name):
            text = file.read_text(encoding="utf-8")
            if (plain := without_origin(text)) != text:
                file.write_text(plain, encoding="utf-8")


def is_config(name: str) -> bool:
    """Whether a file of a model is one of its configurations, by its name."""
    return name.endswith("config.json") or name == "model_index.json"


def checked_config(file: Path, kind: Kind) -> dict[str, Any]:
    """The configuration in the file. Raises WeightsError where a value has another type, or is out of its bounds."""
    config = read_config(file)
    # A whole CLIP, of which the text encoder is a part, has that part's settings one level down.
    within = config.get("text_config")
    for part in (config, within if isinstance(within, dict) else {}):
        for key, adapter in _ADAPTERS[kind].items():
            if key in part:
                try:
                    adapter.validate_python(part[key], strict=True)
                except ValidationError as error:
                    raise WeightsError(f"{file}: {key}: {_mistake(error)}, not {part[key]!r:.60}") from error
    return config


def _mistake(error: ValidationError) -> str:
    """What the first mistake is, in the words of pydantic."""
    return error.errors()[0]["msg"][:1].lower() + error.errors()[0]["msg"][1:]
