"""From what a user names (a run, a folder, a repository of the Hub) to the local folder that holds its weights."""

from pathlib import Path

from vae_ldm.errors import WeightsError
from vae_ldm.hub import download
from vae_ldm.hub.names import PREFIX
from vae_ldm.models.pretrained import is_local

Source = str | Path


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
    name = str(source)
    if name.startswith(PREFIX) or not is_local(name):
        return download(name, revision=revision, token=token, cache_dir=cache_dir, subfolder=subfolder)
    folder = Path(source).expanduser()
    if not (folder.is_dir() or folder.is_file()):
        raise WeightsError(
            f"{source}: no such folder; give a run folder, a folder made by save_pretrained or ORG/NAME of the Hub"
        )
    return folder


def pipeline_folder(folder: Path) -> Path:
    """The pipeline of a run folder, or the folder itself where it is one. Raises WeightsError where there is none."""
    for place in (folder / "pipeline", folder):
        if (place / "model_index.json").is_file():
            return place
    raise WeightsError(f"{folder}: holds no pipeline yet; train the run to its end, or give a pipeline folder")


def autoencoder_folder(folder: Path, subfolder: str | None = None) -> Path:
    """Where the AutoencoderKL lies: in the subfolder, in a run folder, in a pipeline folder, or the folder itself."""
    if subfolder is not None:
        return folder / subfolder
    for place in (folder / "autoencoder", folder / "vae", folder / "pipeline" / "vae"):
        if (place / "config.json").is_file():
            return place
    return folder
