"""Finds the local folder that holds the weights of what a user names: a run, a folder, a repository of the Hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from vae_ldm import starter
from vae_ldm.choices import Export
from vae_ldm.errors import HubError, RunError, WeightsError
from vae_ldm.files import finish_swap
from vae_ldm.hub import download
from vae_ldm.models.lora import LORA_FILE
from vae_ldm.models.pretrained import errors_of_libraries, is_scheduler
from vae_ldm.models.stored_config import Kind, checked_config, read_config
from vae_ldm.models.stored_weights import check_weights
from vae_ldm.paths import HUB_PREFIX, check_model, check_written, expanded, is_of_the_hub

Source = str | Path


_LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)
"""Where classes of components may come from: the third is diffusers' safety checker, None an absent component."""


def local_folder(
    source: Source,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Source | None = None,
    subfolder: str | None = None,
) -> Path:
    """`source` itself, a folder or a single file, or where ORG/NAME (or hf://ORG/NAME@REVISION) lies after a download.

    `starter` is the autoencoder of the package, unless something in the current folder has that name. `subfolder`
    downloads that one component of a repository only. Raises WeightsError where there is no such folder, HubError or
    RunError where the repository cannot be had.
    """
    if is_of_the_hub(source):
        try:
            return download(str(source), revision=revision, token=token, cache_dir=cache_dir, subfolder=subfolder)
        except (HubError, RunError) as error:
            if str(source).startswith(HUB_PREFIX):
                raise
            raise type(error)(f"{error}; nor is there a folder {source} here") from error
    if starter.is_starter(source):
        starter.check_starter()
        return starter.STARTER_FOLDER
    folder = expanded(source)
    for place in (folder, *(folder / name for name in get_args(Export))):
        finish_swap(place)
    check_model(source)
    return folder


def pipeline_folder(folder: Path) -> Path:
    """The pipeline of a run folder, or the folder itself where it is one. Raises WeightsError where there is none."""
    if starter.is_starter(folder):
        raise starter.refuse_to_draw()
    for place in (folder / "pipeline", folder):
        if (place / "model_index.json").is_file():
            return place
    check_written(folder, "pipeline")
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

    Only the autoencoder of a pipeline on the Hub is downloaded. Raises what `local_folder` raises.
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
    check_written(folder, "autoencoder")
    return folder


def lora_file(folder: Path) -> Path | None:
    """The LoRA of a run folder that has no pipeline of its own, or of a folder with nothing else; None elsewhere."""
    if (folder / "pipeline").is_dir() or (folder / "model_index.json").is_file():
        return None
    return next((file for file in (folder / "lora" / LORA_FILE, folder / LORA_FILE) if file.is_file()), None)


def check_components(source: Source, folder: Path) -> None:
    """Raise WeightsError where the pipeline in `folder`, called `source`, is not of Stable Diffusion's kind.

    Every component's library and class is on a closed list, and every configuration within its bounds, before diffusers
    sees the folder: it would import whatever library, or file of the folder, the index names.
    """
    index = read_config(folder / "model_index.json")
    if not isinstance(index.get("_class_name"), str):
        raise WeightsError(f"{source}: its model_index.json names no class of a pipeline")
    others = {
        name: entry for name, entry in index.items() if name not in _COMPONENTS and isinstance(entry, list | dict)
    }
    wrong = [
        f"{name} is {_named(index.get(name))}" for name, allowed in _COMPONENTS.items() if not allowed(index.get(name))
    ]
    wrong += [
        "it has a second text encoder" if name == "text_encoder_2" else f"{name} is {_named(entry)}"
        for name, entry in others.items()
        if entry != [None, None] and entry not in _UNUSED.get(name, ())
    ]
    if wrong:
        foreign = [
            name for name, entry in index.items() if isinstance(entry, list) and _library(entry) not in _LIBRARIES
        ]
        raise WeightsError(
            f"{source}: a {index['_class_name']:.60} is not of Stable Diffusion's kind ({', '.join(wrong)}); "
            + (
                "its classes may be code of the folder's own, which is never run here"
                if foreign
                else "open it with diffusers.DiffusionPipeline.from_pretrained"
            )
        )
    try:
        for kind, (name, model_class) in _NETWORKS.items():
            checked_config(folder / name / "config.json", kind)
            with errors_of_libraries(f"its {name} cannot be opened"):
                check_weights(model_class, folder / name)
        checked_config(folder / "scheduler" / "scheduler_config.json", "scheduler")
        if (tokenizer := folder / "tokenizer" / "tokenizer_config.json").is_file():
            read_config(tokenizer)
    except WeightsError as error:
        raise WeightsError(f"{source}: {str(error).replace(f'{folder}/', '')}") from error


def _library(entry: list[Any]) -> Any:
    return entry[0] if entry else None


def _named(entry: Any) -> str:
    """Library and class of a component, as a message shows them."""
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
        library, name = entry
        return f"{name:.60}" if library in ("diffusers", "transformers") else f"{library:.60}.{name:.60}"
    return "missing" if entry is None else "no class"


def _is(library: str, name: str) -> Callable[[Any], bool]:
    return lambda entry: entry == [library, name]


def _is_scheduler(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and entry[0] == "diffusers" and is_scheduler(entry[1])


def _is_tokenizer(entry: Any) -> bool:
    if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == "transformers" and isinstance(entry[1], str)):
        return False
    found = getattr(transformers, entry[1], None)
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase)


_COMPONENTS: dict[str, Callable[[Any], bool]] = {
    "vae": _is("diffusers", "AutoencoderKL"),
    "unet": _is("diffusers", "UNet2DConditionModel"),
    "text_encoder": _is("transformers", "CLIPTextModel"),
    "tokenizer": _is_tokenizer,
    "scheduler": _is_scheduler,
}
"""What a pipeline of Stable Diffusion's kind holds."""
_UNUSED: dict[str, tuple[Any, ...]] = {
    "safety_checker": (["stable_diffusion", "StableDiffusionSafetyChecker"],),
    "feature_extractor": (["transformers", "CLIPImageProcessor"], ["transformers", "CLIPFeatureExtractor"]),
    "image_encoder": (["transformers", "CLIPVisionModelWithProjection"],),
}
"""What is in the index of many and is not loaded."""
_NETWORKS: dict[Kind, tuple[str, type[nn.Module]]] = {
    "autoencoder": ("vae", AutoencoderKL),
    "unet": ("unet", UNet2DConditionModel),
    "text_encoder": ("text_encoder", transformers.CLIPTextModel),
}
