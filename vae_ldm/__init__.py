"""Train your own autoencoder and latent diffusion model on your own photos.

    import vae_ldm

    pipeline = vae_ldm.pipeline("runs/claims-32")              # a run, an export or ORG/NAME of the Hub
    autoencoder = vae_ldm.load_autoencoder("runs/claims-32")   # only photos to latents and back
    autoencoder = vae_ldm.load_autoencoder("starter")          # the one that comes with the package
    vae_ldm.push("runs/claims-32", "ORG/NAME")                 # to the Hub

What the desk's verbs have made is opened by the same names:

    index = vae_ldm.open_index("claims.index")                 # photos to search by photo
    detector = vae_ldm.open_detector("claims.novelty")         # says which photos show what was never seen
    archive = vae_ldm.open_archive("claims.archive")           # photos in few bytes

Importing this package costs nothing: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_ldm.registration import offer_strategy

if TYPE_CHECKING:
    from vae_ldm.desk.archive.store import Archive, open_archive
    from vae_ldm.desk.novelty.detector import Detector
    from vae_ldm.desk.novelty.detector_folder import open_detector
    from vae_ldm.desk.search.index import Index, open_index
    from vae_ldm.errors import DataError, HubError, RecipeError, RunError, VaeLdmError, WeightsError
    from vae_ldm.hub import pull
    from vae_ldm.loading import load_autoencoder, pipeline
    from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
    from vae_ldm.pipelines.latent_diffusion import LatentDiffusionPipeline
    from vae_ldm.run.push import push

__all__ = [
    "Archive",
    "DataError",
    "Detector",
    "HubError",
    "ImageAutoencoder",
    "Index",
    "LatentDiffusionPipeline",
    "RecipeError",
    "RunError",
    "VaeLdmError",
    "WeightsError",
    "load_autoencoder",
    "open_archive",
    "open_detector",
    "open_index",
    "pipeline",
    "pull",
    "push",
]

_HOMES = {
    "Archive": "desk.archive.store",
    "DataError": "errors",
    "Detector": "desk.novelty.detector",
    "HubError": "errors",
    "ImageAutoencoder": "pipelines.image_autoencoder",
    "Index": "desk.search.index",
    "LatentDiffusionPipeline": "pipelines.latent_diffusion",
    "RecipeError": "errors",
    "RunError": "errors",
    "VaeLdmError": "errors",
    "WeightsError": "errors",
    "load_autoencoder": "loading",
    "open_archive": "desk.archive.store",
    "open_detector": "desk.novelty.detector_folder",
    "open_index": "desk.search.index",
    "pipeline": "loading",
    "pull": "hub",
    "push": "run.push",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


offer_strategy()
