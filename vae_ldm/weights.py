"""From what a user names (a run, a folder, a repository of the Hub) to the local folder that holds its weights."""

import json
from pathlib import Path
from typing import Any

from vae_ldm.errors import HubError, RunError, WeightsError, first_line
from vae_ldm.hub import download
from vae_ldm.models.lora import LORA_FILE
from vae_ldm.paths import HUB_PREFIX, check_model, expanded, is_of_the_hub

Source = str | Path

_COMPONENTS = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}
"""What a pipeline of Stable Diffusion's kind holds."""


def local_folder(
    source: Source,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Source | None = None,
    subfolder: str | None = None,
) -> Path:
    """`source` itself, a folder or a single file, or where ORG/NAME (or hf://ORG/NAME@REVISION) lies after a download.

    Of a repository, `subfolder` downloads that one component only. Raises WeightsError where there is no such folder,
    HubError or RunError where the repository cannot be had.
    """
    if is_of_the_hub(source):
        try:
            return download(str(source), revision=revision, token=token, cache_dir=cache_dir, subfolder=subfolder)
        except (HubError, RunError) as error:
            if str(source).startswith(HUB_PREFIX):
                raise
            raise type(error)(f"{error}; nor is there a folder {source} here") from error
    check_model(source)
    return expanded(source)


def pipeline_folder(folder: Path) -> Path:
    """The pipeline of a run folder, or the folder itself where it is one. Raises WeightsError where there is none."""
    for place in (folder / "pipeline", folder):
        if (place / "model_index.json").is_file():
            return place
    if (folder / "recipe.yaml").is_file():
        raise WeightsError(f"{folder}: holds no pipeline yet; train the run to its end")
    raise WeightsError(f"{folder}: is no run and no pipeline; give the folder that train made, or a pipeline's")


def autoencoder_folder(
    source: Source,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Source | None = None,
    subfolder: str | None = None,
) -> Path:
    """Where the AutoencoderKL of a run, a pipeline, its own folder or the Hub lies; arguments as of `local_folder`.

    Of a pipeline on the Hub nothing but the autoencoder is downloaded. Raises what `local_folder` raises.
    """
    where: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    if subfolder is not None:
        return local_folder(source, **where, subfolder=subfolder) / subfolder
    if is_of_the_hub(source):
        try:
            return local_folder(source, **where, subfolder="vae") / "vae"
        except HubError:  # no pipeline; what else is wrong with it the next line says
            pass
    folder = local_folder(source, **where)
    for place in (folder / "autoencoder", folder / "vae", folder / "pipeline" / "vae"):
        if (place / "config.json").is_file():
            return place
    return folder


def lora_file(folder: Path) -> Path | None:
    """The LoRA of a run folder that has no pipeline of its own, or of a folder with nothing else; None elsewhere."""
    if (folder / "pipeline").is_dir() or (folder / "model_index.json").is_file():
        return None
    return next((file for file in (folder / "lora" / LORA_FILE, folder / LORA_FILE) if file.is_file()), None)


def check_components(source: Source, folder: Path) -> None:
    """Raise WeightsError where the pipeline in `folder`, called `source`, is not of Stable Diffusion's kind."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        found = {name: index.get(name, [None, None])[1] for name in (*_COMPONENTS, "text_encoder_2")}
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise WeightsError(f"{source}: its model_index.json cannot be read ({first_line(error)})") from error
    wrong = [f"{name} is {found[name]}" for name, wanted in _COMPONENTS.items() if found[name] != wanted]
    if found["text_encoder_2"] is not None:
        wrong.append("it has a second text encoder")
    if wrong:
        raise WeightsError(
            f"{source}: a {index.get('_class_name')} is not of Stable Diffusion's kind ({', '.join(wrong)}); "
            "open it with diffusers.DiffusionPipeline.from_pretrained"
        )
