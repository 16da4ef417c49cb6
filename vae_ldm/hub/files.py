"""Which files of a repository are ours to read and write: an exact list of names, safetensors and text only."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from vae_ldm.errors import HubError

_WEIGHTS = tuple(
    f"{stem}{suffix}"
    for stem in ("model", "diffusion_pytorch_model")
    for suffix in (".safetensors", ".safetensors.index.json", "-?????-of-?????.safetensors")
)
_NETWORK = ("config.json", *_WEIGHTS)
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
NETWORKS = ("vae", "unet", "text_encoder")
COMPONENTS = {
    "": (*_NETWORK, *_TOKENIZER),
    **dict.fromkeys(NETWORKS, _NETWORK),
    "tokenizer": _TOKENIZER,
    "scheduler": ("scheduler_config.json",),
    "feature_extractor": ("preprocessor_config.json",),
}
"""Files of a pipeline by folder; at the top those of a repository with an autoencoder or a text encoder alone."""
_BESIDE = (
    "README.md",
    "model_index.json",
    "recipe.yaml",
    "metrics.json",
    "pytorch_lora_weights.safetensors",
    "samples/samples.png",
    "samples/reconstructions.png",
)
EXPECTED = (*_BESIDE, *(f"{folder}/{name}".lstrip("/") for folder, names in COMPONENTS.items() for name in names))
"""The list, in which `?` is one character of a shard's number."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def is_expected(name: str) -> bool:
    """Whether a file of a repository is on the list."""
    return any(fnmatchcase(name, pattern) for pattern in EXPECTED)


def check_names(repository: str, names: Iterable[str]) -> None:
    """Raise HubError where a name would lead out of the folder that it is written to."""
    for name in names:
        parts = re.split(r"[/\\]", name)
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise HubError(
                f"{repository}: holds a file named {name!r}, which would be written outside its folder; "
                "nothing was downloaded, and its owner is not to be trusted"
            )


def choose_files(repository: str, names: Iterable[str], subfolder: str | None = None) -> list[str]:
    """The files of a repository that are on the list and, where it is given, in the subfolder.

    Raises HubError where a network has pickled weights only, or there are no weights at all.
    """
    names = list(names)
    check_names(repository, names)
    chosen = [name for name in names if is_expected(name) and (subfolder is None or _folder(name) == subfolder)]
    is_pipeline = "model_index.json" in names
    folders = [folder for folder in COMPONENTS if subfolder in (None, folder) and (folder or not is_pipeline)]
    for folder in folders:
        if any(_is_weights(name) for name in chosen if _folder(name) == folder):
            continue
        for name in names:
            if _folder(name) == folder and name.endswith(_PICKLES):
                raise HubError(
                    f"{repository}: {name} is a pickle, which can run code when opened, and there are no safetensors "
                    "beside it; ask its owner to save the weights as safetensors, or take another repository"
                )
    if not any(_is_weights(name) for name in chosen):
        where = f" in {subfolder}/" if subfolder else ""
        raise HubError(f"{repository}: holds no weights of a pipeline or an autoencoder as safetensors{where}")
    return chosen


def _folder(name: str) -> str:
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")
