"""Train your own autoencoder and latent diffusion model on your own photos.

    import vae_ldm

    pipeline = vae_ldm.pipeline("runs/claims-32")              # a run, an export or ORG/NAME of the Hub
    autoencoder = vae_ldm.load_autoencoder("runs/claims-32")   # only photos to latents and back
    vae_ldm.push("runs/claims-32", "ORG/NAME")                 # to the Hub

Importing this costs nothing: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_ldm.registration import offer_strategy

if TYPE_CHECKING:
    from vae_ldm.errors import DataError, HubError, RecipeError, RunError, VaeLdmError, WeightsError
    from vae_ldm.hub import pull
    from vae_ldm.loading import load_autoencoder, pipeline
    from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder
    from vae_ldm.pipelines.latent_diffusion import LatentDiffusionPipeline
    from vae_ldm.run.push import push

__all__ = [
    "DataError",
    "HubError",
    "ImageAutoencoder",
    "LatentDiffusionPipeline",
    "RecipeError",
    "RunError",
    "VaeLdmError",
    "WeightsError",
    "load_autoencoder",
    "pipeline",
    "pull",
    "push",
]

_HOMES = {
    "DataError": "errors",
    "HubError": "errors",
    "ImageAutoencoder": "pipelines.image_autoencoder",
    "LatentDiffusionPipeline": "pipelines.latent_diffusion",
    "RecipeError": "errors",
    "RunError": "errors",
    "VaeLdmError": "errors",
    "WeightsError": "errors",
    "load_autoencoder": "loading",
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
