"""A pipeline on disk as every diffusers and transformers opens it."""

from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from vae_ldm.models.lora import has_lora, merged
from vae_ldm.models.stored_config import forget_origin


def save_plain_pipeline(pipeline: StableDiffusionPipeline, folder: Path, **options: Any) -> None:
    """Write `folder` as a StableDiffusionPipeline, whatever class of ours the pipeline is; safetensors only.

    A LoRA is merged into the UNet that is written, and stays beside the one in memory.
    `options` go to diffusers' save_pretrained.
    """
    components = dict(pipeline.components)
    if has_lora(pipeline.unet):
        components["unet"] = merged(pipeline.unet)
    plain = StableDiffusionPipeline(**components, requires_safety_checker=pipeline.config.requires_safety_checker)
    plain.save_pretrained(folder, **options)
    _make_readable_by_transformers_4(folder)
    forget_origin(folder)


def _make_readable_by_transformers_4(folder: Path) -> None:
    """Write the names of tokenizer class and text encoder weights that transformers 4 knows and 5 still reads.

    Version 5 saves a new name of PreTrainedTokenizerFast, and the weights without the prefix that every CLIP on the
    Hub has: version 4 would leave the text encoder random with no more than a warning.
    """
    for file in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'), encoding="utf-8")
    for weights in (folder / "text_encoder").glob("*.safetensors"):
        named = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(weights).items()}
        save_file(named, weights, metadata={"format": "pt"})
