"""Opening other people's weights: safetensors only, nothing missing, nothing mis-shaped, one clear line otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers

from vae_ldm.errors import VaeLdmError, WeightsError, first_line
from vae_ldm.models.stored_config import Kind, checked_config
from vae_ldm.models.stored_weights import check_none_missing, check_numbers, check_weights, first_of
from vae_ldm.paths import is_local

Model = TypeVar("Model", bound=torch.nn.Module)

OWN_CODE = "needs code of its own, which never runs here; name a model whose class transformers has"
"""What is said of a model for which `wants_own_code`."""

_KINDS: dict[str, Kind] = {
    "AutoencoderKL": "autoencoder",
    "UNet2DConditionModel": "unet",
    "CLIPTextModel": "text_encoder",
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def load_pretrained(
    model_class: type[Model], source: str, *, revision: str | None = None, subfolder: str | None = None
) -> Model:
    """A model of `model_class` (diffusers or transformers) in float32 and eval mode, from a folder or the Hub.

    Raises WeightsError where the folder is missing, holds only pickled weights, or lacks or mis-shapes a tensor
    (diffusers itself only warns about a missing one and leaves it random).
    """
    folder = Path(source) / (subfolder or "")
    what = f"{folder}: cannot be opened as {model_class.__name__}"
    if is_local(source):
        _check_folder(folder)
        checked_config(folder / "config.json", _KINDS[model_class.__name__])
        with _libraries_silent(), errors_of_libraries(what):
            check_weights(model_class, folder)
    load: Callable[..., Any] = model_class.from_pretrained  # type: ignore[attr-defined]
    with _libraries_silent(), errors_of_libraries(what):
        model, info = load(
            source,
            revision=revision,
            subfolder=subfolder or "",
            torch_dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the info, by name; the error would name none
            **({"low_cpu_mem_usage": False} if model_class.__module__.startswith("diffusers") else {}),
        )
    check_none_missing(sorted(info["missing_keys"]), model, folder)
    mismatched = [key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys", ())]
    if mismatched:  # under a name that the library has changed
        raise WeightsError(
            f"{folder}: weights of {model_class.__name__} are mis-shaped ({first_of(mismatched)}); "
            "save the model again with save_pretrained"
        )
    check_numbers(model, folder)
    return model.eval()


@contextmanager
def errors_of_libraries(what: str) -> Iterator[None]:
    """Raise WeightsError, beginning with `what`, for whatever a library stumbles over in somebody else's files."""
    try:
        yield
    except VaeLdmError:
        raise
    except Exception as error:
        if wants_own_code(error):
            raise WeightsError(f"{what}: it {OWN_CODE}") from error
        kind = "" if isinstance(error, (OSError, ValueError, RuntimeError)) else f"{type(error).__name__}: "
        raise WeightsError(f"{what}: {kind}{first_line(error)}") from error


def wants_own_code(error: BaseException) -> bool:
    """Whether a library refuses a model because it may not run the code that comes with it."""
    return "trust_remote_code" in str(error)


@contextmanager
def _libraries_silent() -> Iterator[None]:
    """What diffusers and transformers would warn of at length is checked, and said in one line, by the caller."""
    libraries = (diffusers.logging, transformers.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def load_scheduler(folder: Path) -> Any:
    """The scheduler of the pipeline in `folder`, in the class it was saved as; WeightsError where there is none."""
    config = checked_config(folder / "scheduler" / "scheduler_config.json", "scheduler")
    with errors_of_libraries(f"{folder}: its scheduler cannot be opened"):
        name = config.get("_class_name")
        if not is_scheduler(name):
            raise ValueError(f"diffusers has no scheduler {name}")
        load: Callable[..., Any] = getattr(diffusers, name).from_pretrained  # type: ignore[arg-type]
        return load(str(folder), subfolder="scheduler")


def is_scheduler(name: Any) -> bool:
    """Whether diffusers has a scheduler of this name."""
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    return isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; give a folder made by save_pretrained, or ORG/NAME of the Hub")
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: has no config.json; give the folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        for file in sorted(folder.iterdir()):
            check_no_pickle(file)
        raise WeightsError(f"{folder}: has no .safetensors file; save the weights with save_pretrained")


def check_no_pickle(file: Path) -> None:
    """Raise WeightsError where a file of weights is a pickle by its name; it is not opened."""
    if file.suffix in _PICKLES:
        raise WeightsError(
            f"{file.parent}: {file.name} is a pickle, which can run code when opened; "
            "save the weights as safetensors (save_pretrained does)"
        )
