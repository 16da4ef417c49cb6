"""Opens what a user names: a pipeline or an autoencoder of a run, of a folder or of the Hub."""

import warnings
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextModel

from vae_ldm.errors import HubError, VaeLdmError, first_line
from vae_ldm.hub import cached
from vae_ldm.models import autoencoder as autoencoder_models
from vae_ldm.models.lora import LoraBase, lora_base
from vae_ldm.models.pretrained import errors_of_libraries, load_pretrained
from vae_ldm.models.single_file import known_scalings
from vae_ldm.models.stored_weights import check_numbers
from vae_ldm.models.text_encoder import check_prompt_length
from vae_ldm.paths import is_of_the_hub
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
from vae_ldm.pipelines.latent_diffusion import LatentDiffusionPipeline
from vae_ldm.weights import Source, autoencoder_folder, check_components, local_folder, lora_file, pipeline_folder


def pipeline(
    source: Source,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Source | None = None,
    torch_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    vae: AutoencoderKL | None = None,
) -> LatentDiffusionPipeline:
    """The pipeline of a run folder, of an export folder or of a repository ORG/NAME of the Hub; of a LoRA, on its base.

    >>> import torch, vae_ldm
    >>> pipeline = vae_ldm.pipeline("runs/claims-32")
    >>> pipeline.set_progress_bar_config(disable=True)
    >>> pipeline("a photo of a good tin", num_inference_steps=4, generator=torch.manual_seed(0)).images[0].size
    (32, 32)

    `revision`, `token` and `cache_dir` are those of huggingface_hub. `torch_dtype` None is float32, `device` None the
    GPU where there is one. `vae` is the pipeline's autoencoder where it is loaded already. No safety checker is loaded,
    safetensors only, and nothing of a repository is executed. The base that a LoRA names has to be on this machine.

    Raises WeightsError where there is no pipeline, or none of Stable Diffusion's kind, and what `vae_ldm.hub.download`
    raises where a repository cannot be had.
    """
    folder = local_folder(source, revision=revision, token=token, cache_dir=cache_dir)
    lora = lora_file(folder)
    if lora is None:
        opened = _open(source, pipeline_folder(folder), vae)
    else:
        base = lora_base(lora)
        base_folder = _base_folder(lora, base, cache_dir)
        opened = _open(base.source, pipeline_folder(base_folder))
        if (folder / "autoencoder" / "config.json").is_file():  # a run's own, whose decoder may have been trained
            opened.register_modules(vae=autoencoder_models.load_autoencoder_kl(str(folder / "autoencoder")))
        with errors_of_libraries(f"{lora}: does not fit {base.source}"):
            opened.load_lora_weights(lora.parent, weight_name=lora.name)
        check_numbers(opened.unet, lora)
    if torch_dtype == torch.float16 and opened.vae.config.force_upcast:
        warnings.warn(
            f"{source}: its autoencoder is marked as unfit for float16; should pictures come out black, take "
            "torch.bfloat16 or torch.float32",
            stacklevel=2,
        )
    for component in opened.components.values():
        if isinstance(component, nn.Module):
            _place(component, device, torch_dtype)
    return opened


def load_autoencoder(
    source: Source,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Source | None = None,
    torch_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    subfolder: str | None = None,
    tile_size: int | None = 512,
) -> ImageAutoencoder:
    """The autoencoder of a run, a pipeline, its own folder, the Hub or the package: images to latents and back.

    >>> import numpy as np, vae_ldm
    >>> autoencoder = vae_ldm.load_autoencoder("runs/claims-32")
    >>> latents = autoencoder.encode(np.zeros((32, 32, 3), np.uint8))
    >>> [image.size for image in autoencoder.decode(latents)]
    [(32, 32)]

    Any AutoencoderKL, in the layout of Stable Diffusion, SDXL or FLUX, and FLUX.2's as one. "starter" is the one that
    comes with the package, unless something in the current folder has that name. `revision`, `token` and `cache_dir`
    are those of huggingface_hub; `torch_dtype` None is float32, `device` None the GPU where there is one. Only the
    autoencoder of a pipeline on the Hub is downloaded, or the `subfolder` of another repository. Sides above
    `tile_size` px are worked through in tiles.

    Raises WeightsError where there is no autoencoder, or its weights are incomplete or pickled, and what
    `vae_ldm.hub.download` raises where a repository cannot be had.
    """
    folder = autoencoder_folder(source, revision=revision, token=token, cache_dir=cache_dir, subfolder=subfolder)
    opened = autoencoder_models.load_autoencoder_kl(str(folder)).requires_grad_(False)
    if folder.is_file() and opened.config.latents_mean is None:  # FLUX.2's file holds statistics
        assumed, *others = known_scalings(opened)
        warnings.warn(
            f"{source}: a single file does not say its scaling factor; {assumed.name}'s {assumed.scaling_factor:g} is "
            f"assumed ({', '.join(f'{other.name} has {other.scaling_factor:g}' for other in others)}); "
            "a folder with a config.json says it",
            stacklevel=2,
        )
    _place(opened, device, torch_dtype)
    return ImageAutoencoder(opened, tile_size=tile_size)


def _base_folder(lora: Path, base: LoraBase, cache_dir: Source | None) -> Path:
    """Where the pipeline of a LoRA lies on this machine.

    Nothing is downloaded: the name stands in a file that may be somebody else's, and the user has not named it. Raises
    HubError where it is a repository of the Hub that was not downloaded before.
    """
    if not is_of_the_hub(base.source):
        return local_folder(base.source)
    try:
        return cached(base.source, revision=base.revision, cache_dir=cache_dir)
    except HubError as error:
        raise HubError(f"{lora}: its base {error}") from None


def _open(source: Source, folder: Path, vae: AutoencoderKL | None = None) -> LatentDiffusionPipeline:
    check_components(source, folder)
    # transformers gives a text encoder whose weights are missing random ones, without a word.
    loaded: dict[str, nn.Module] = {
        "text_encoder": load_pretrained(CLIPTextModel, str(folder), subfolder="text_encoder")
    }
    if vae is not None:
        loaded["vae"] = vae
    with errors_of_libraries(f"{source}: cannot be opened as a pipeline"):
        opened = LatentDiffusionPipeline.from_pretrained(
            str(folder),
            use_safetensors=True,
            trust_remote_code=False,
            safety_checker=None,
            feature_extractor=None,  # it only prepares pictures for the checker
            image_encoder=None,
            requires_safety_checker=False,
            **loaded,
        )
    for name in ("vae", "unet"):
        check_numbers(getattr(opened, name), folder / name)
    check_prompt_length(source, opened.tokenizer, opened.text_encoder)
    return opened


def _place(module: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise VaeLdmError(f"torch_dtype {dtype!r} is no dtype; give torch.float16, torch.bfloat16 or torch.float32")
    try:
        # The models' own `to` warns of modules to be kept in float32 even where there are none.
        nn.Module.to(module, device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype or torch.float32)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise VaeLdmError(f"device {device}: {first_line(error)}") from error
