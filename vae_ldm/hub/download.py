"""Downloads expected files from the Hub into the client's cache, never a pickle; afterwards it works offline."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)

from vae_ldm.errors import HubError, WeightsError
from vae_ldm.files import finish_swap, whole_folder
from vae_ldm.hub.failures import in_plain_words
from vae_ldm.hub.files import EXPECTED, NETWORKS, choose_files
from vae_ldm.hub.names import parse_name
from vae_ldm.models.stored_config import read_config
from vae_ldm.paths import expanded

_ANSWER_WITHIN_SECONDS = 10
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""Where classes of a pipeline may come from; the last is what diffusers calls its own safety checker."""


def download(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Path | str | None = None,
    subfolder: str | None = None,
) -> Path:
    """The folder in the cache with a repository's pipeline or autoencoder, downloaded now unless it already was.

    `name` is ORG/NAME, hf://ORG/NAME or hf://ORG/NAME@REVISION; `token` is by default the one stored by `hf auth
    login`. Only files of an exact list are written: safetensors, JSON and text. With `subfolder` only that component is
    downloaded. Without a connection the copy in the cache serves.

    Raises HubError where the repository, or its revision, is not there or may not be read, holds only pickled
    weights, names a file outside its folder or wants classes from elsewhere than diffusers and transformers; RunError
    where there is no connection, or no room on the disk.
    """
    repository, revision = parse_name(name, revision)
    where: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    with in_plain_words(repository, token=token, revision=revision):
        try:
            names = _list_files(repository, revision, token)
        except (HTTPError, ConnectionError, TimeoutError) as error:
            if not _is_unreachable(error):
                raise
            folder = _cached(repository, where, subfolder, error)
        else:
            chosen = choose_files(repository, names, subfolder)
            folder = Path(snapshot_download(repository, **where, allow_patterns=chosen))
    _check_classes(repository, folder)
    return folder


def cached(name: str, *, revision: str | None = None, cache_dir: Path | str | None = None) -> Path:
    """The folder in the cache with a repository that was downloaded before; the Hub is not asked.

    Raises HubError where it is not there, or not whole.
    """
    repository, revision = parse_name(name, revision)
    try:
        folder = _copy(repository, {"revision": revision, "cache_dir": cache_dir}, None)
    except LocalEntryNotFoundError:
        wanted = f"{repository} --revision {revision}" if revision else repository
        raise HubError(
            f"{repository} is not on this machine, and is not downloaded automatically; run "
            f"`vae-ldm pull {wanted}` once"
        ) from None
    _check_classes(repository, folder)
    return folder


def pull(
    name: str,
    output_dir: Path | str | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Path | str | None = None,
) -> Path:
    """A repository's pipeline or autoencoder as a folder: the one in the cache, or else a copy in `output_dir`.

    >>> import vae_ldm
    >>> folder = vae_ldm.pull("ORG/claims-32", "claims-32", revision="v1")
    >>> vae_ldm.pipeline(folder).unet.config.in_channels
    8

    After it the repository can be used without a connection, by its name too. Arguments and errors are those of
    `download`; HubError too where `output_dir` exists already.
    """
    target = None if output_dir is None else expanded(output_dir)
    if target is not None:
        finish_swap(target)
        if os.path.lexists(target):
            raise _exists_already(target)
    folder = download(name, revision=revision, token=token, cache_dir=cache_dir)
    if target is None:
        return folder
    try:
        with whole_folder(target, replaces=False) as unfinished:
            shutil.copytree(folder, unfinished, dirs_exist_ok=True)  # links into the cache become files
    except FileExistsError:  # another process has pulled to it meanwhile
        raise _exists_already(target) from None
    return target


def _exists_already(target: Path) -> HubError:
    return HubError(f"{target}: exists already; name another folder, or delete it")


def download_recipe(
    name: str, *, revision: str | None = None, token: str | None = None, cache_dir: Path | str | None = None
) -> Path:
    """The recipe.yaml that travels with a pushed run; arguments and errors are those of `download`."""
    repository, revision = parse_name(name, revision)
    where: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    with in_plain_words(repository, token=token, revision=revision):
        try:
            _list_files(repository, revision, token)  # answers at once where the download would try again and again
            file = hf_hub_download(repository, "recipe.yaml", **where)
        except RemoteEntryNotFoundError:
            raise HubError(f"{repository}: holds no recipe.yaml; it was not pushed by vae-ldm push") from None
        except (HTTPError, ConnectionError, TimeoutError) as error:
            if not _is_unreachable(error):
                raise
            try:
                file = hf_hub_download(repository, "recipe.yaml", **where, local_files_only=True)
            except LocalEntryNotFoundError:
                if isinstance(error, OfflineModeIsEnabled):
                    raise
                raise error from None
    return Path(file)


def _list_files(repository: str, revision: str | None, token: str | None) -> list[str]:
    info = HfApi(token=token).model_info(repository, revision=revision, timeout=_ANSWER_WITHIN_SECONDS)
    return [sibling.rfilename for sibling in info.siblings or ()]


def _is_unreachable(error: Exception) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500


def _cached(repository: str, where: dict[str, Any], subfolder: str | None, unreachable: Exception) -> Path:
    """The copy in the cache, where it is whole; else raises what kept the Hub from answering."""
    offline = isinstance(unreachable, OfflineModeIsEnabled)
    try:
        folder = _copy(repository, where, subfolder)
    except LocalEntryNotFoundError:
        if offline:
            raise
        raise unreachable from None
    if not offline:
        logging.getLogger(__name__).warning("%s: the Hub cannot be reached; taking the copy in the cache", repository)
    return folder


def _copy(repository: str, where: dict[str, Any], subfolder: str | None) -> Path:
    """The copy in the cache. Raises LocalEntryNotFoundError where there is none, or not all of it."""
    patterns = [pattern for pattern in EXPECTED if subfolder is None or pattern.startswith(f"{subfolder}/")]
    folder = Path(snapshot_download(repository, **where, allow_patterns=patterns, local_files_only=True))
    # The client cannot tell where only single files, such as a recipe, were downloaded before.
    if not _has_all_weights(folder, subfolder):
        raise LocalEntryNotFoundError(str(folder))
    return folder


def _has_all_weights(folder: Path, subfolder: str | None) -> bool:
    if subfolder is not None:
        networks = [subfolder]
    elif (folder / "model_index.json").is_file():
        index = read_config(folder / "model_index.json")
        networks = [name for name in NETWORKS if index.get(name) not in (None, [None, None])]
    else:
        networks = [""]
    return all(_has_weights(folder / network) for network in networks)


def _has_weights(network: Path) -> bool:
    for index in network.glob("*.safetensors.index.json"):
        shards = read_config(index).get("weight_map")
        return isinstance(shards, dict) and all((network / str(shard)).is_file() for shard in shards.values())
    return any(network.glob("*.safetensors"))


def _check_classes(repository: str, folder: Path) -> None:
    """Raise HubError where a pipeline wants a class of any other package: opening it would import that package."""
    index = folder / "model_index.json"
    if not index.is_file():
        return
    try:
        components = read_config(index)
    except WeightsError as error:
        raise HubError(f"{repository}: its model_index.json is not JSON ({error})") from error
    for component, entry in components.items():
        library = entry[0] if isinstance(entry, list) and entry else None
        if library not in (None, *_LIBRARIES):
            raise HubError(
                f"{repository}: its {component} is code of {library!r}, and nothing but diffusers and transformers "
                "is run; take another repository"
            )
