"""Vision backbones by name, as the verbs of the desk open them."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from transformers.utils import cached_file

from vae_ldm.choices import EfficientNetName
from vae_ldm.errors import WeightsError
from vae_ldm.models.vision_features import (
    EfficientNetLiteFeatures,
    VisionFeatures,
    load_efficientnet_lite,
    load_transformers_backbone,
)
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.paths import is_of_the_hub

DEFAULT_BACKBONE: EfficientNetName = "efficientnet-lite0"


@dataclass(frozen=True, eq=False)
class OpenedBackbone:
    """A backbone that looks at photos, and the digest by which it is recognised."""

    features: VisionFeatures
    digest: str
    """Of the weights as they were trained, before any are folded."""


def open_backbone(
    name: str | None = None, *, downloads: bool = True, device: torch.device | None = None
) -> OpenedBackbone:
    """The backbone of this name: one of EfficientNetName, a folder or ORG/NAME of a vision model of transformers.

    None is DEFAULT_BACKBONE. The batch norms of an EfficientNet are folded into its convolutions, which is faster.
    Without `downloads` a model of the Hub is taken from its cache on this machine alone, for names that are stored in a
    file, which may come from somebody else. Raises WeightsError where there is no such backbone.
    """
    found = _load(DEFAULT_BACKBONE if name is None else name, downloads)
    digest = weights_digest(found.network)
    if isinstance(found, EfficientNetLiteFeatures):
        found = found.folded()
    return OpenedBackbone(found.to(device or torch.device("cpu")), digest)


def lasting_backbone(name: str | None) -> str | None:
    """The name by which a backbone is stored: None for DEFAULT_BACKBONE, and the whole path of a folder."""
    if name is None or name == DEFAULT_BACKBONE:
        return None
    if name in get_args(EfficientNetName) or is_of_the_hub(name):
        return name
    return str(Path(name).expanduser().resolve())


def _load(name: str, downloads: bool) -> VisionFeatures:
    for efficientnet in get_args(EfficientNetName):
        if name == efficientnet:
            return load_efficientnet_lite(efficientnet)
    if downloads or not is_of_the_hub(name):
        return load_transformers_backbone(name)
    try:
        config = cached_file(name, "config.json", local_files_only=True)
    except OSError as error:
        raise WeightsError(
            f"the backbone {name} is not on this machine, and is not downloaded automatically; run "
            f"`hf download {name}` once"
        ) from error
    loaded = load_transformers_backbone(str(Path(str(config)).parent))
    loaded.name = Path(name).name
    return loaded
