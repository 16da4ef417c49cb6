"""What sees photos for the claims desk: a run's autoencoder and a vision backbone, at the sizes each was made for."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vae_ldm import loading, starter
from vae_ldm.choices import FeatureKind, Resize
from vae_ldm.data.photo_stream import PhotoBatch, decoded_batches
from vae_ldm.data.sources import Record
from vae_ldm.desk.backbone import open_backbone
from vae_ldm.errors import WeightsError
from vae_ldm.latent_space.features import FeaturePart, parts_of, pool_latents
from vae_ldm.models.pixels import as_images
from vae_ldm.models.vision_features import VisionFeatures
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.opening import settings_of
from vae_ldm.paths import HUB_PREFIX, is_of_the_hub
from vae_ldm.pipelines.image_autoencoder import ImageAutoencoder

BACKBONE_SIDE = 192
"""The shorter side in px at which the backbone sees a photo, where the run's own size is smaller."""


class PhotoEncoder:
    """Photos to raw feature vectors, by the autoencoder of a run (or folder, ORG/NAME, the starter) and a backbone."""

    def __init__(
        self,
        source: str,
        *,
        kind: FeatureKind = "both",
        backbone: str | None = None,
        backbone_downloads: bool = True,
        device: torch.device | None = None,
    ) -> None:
        """`backbone` and `backbone_downloads` are what `open_backbone` takes.

        Raises WeightsError where the autoencoder or the backbone cannot be opened.
        """
        self.source, self.kind = source, kind
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.autoencoder: ImageAutoencoder = loading.load_autoencoder(source, device=self.device)
        self.backbone: VisionFeatures | None = None
        self.backbone_digest: str | None = None
        """The digest of the backbone's weights, as they were trained."""
        if "backbone" in parts_of(kind):
            opened = open_backbone(backbone, downloads=backbone_downloads, device=self.device)
            self.backbone, self.backbone_digest = opened.features, opened.digest
        settings = settings_of(source)
        self.image_size: tuple[int, int] = settings.image_size or self._native_size()
        self.resize: Resize = settings.resize
        self.channels = self.autoencoder.channels
        self.digest = weights_digest(self.autoencoder.autoencoder)
        """The digest of the autoencoder's weights; vectors of another autoencoder cannot be compared."""

    @property
    def name(self) -> str:
        """What messages and stored files call the autoencoder."""
        return starter.model_name(self.source)

    @property
    def works_in_tiles(self) -> bool:
        """Whether photos are so large that the autoencoder looks at them piece by piece."""
        tile_size = self.autoencoder.tile_size
        return tile_size is not None and max(self.image_size) > tile_size

    @property
    def features_name(self) -> str:
        """What stands beside every number measured on these features."""
        names: dict[FeaturePart, str] = {"latents": "latents", "backbone": self.backbone.name if self.backbone else ""}
        return " + ".join(names[part] for part in parts_of(self.kind))

    @property
    def backbone_size(self) -> tuple[int, int]:
        """Height and width at which the backbone sees a photo, of the same proportions as the autoencoder's."""
        scale = max(1.0, BACKBONE_SIDE / min(self.image_size))
        height, width = (round(side * scale) for side in self.image_size)
        return height, width

    def batches(
        self,
        records: Sequence[Record],
        *,
        batch_size: int = 32,
        on_unreadable: Callable[[Record, str], None] | None = None,
    ) -> Iterator[PhotoBatch]:
        """The photos, decoded once for the autoencoder and once for the backbone where there is one."""
        sizes = [self.image_size] + ([self.backbone_size] if self.backbone is not None else [])
        return decoded_batches(
            records,
            sizes,
            channels=self.channels,
            resize=self.resize,
            batch_size=batch_size,
            on_unreadable=on_unreadable,
        )

    @torch.no_grad()
    def latents(self, batch: PhotoBatch) -> Tensor:
        """Posterior means [B, c, h, w] of zero mean and unit variance, on the CPU."""
        return self.autoencoder.encode_batch(as_images(batch.images[0])).float().cpu()

    @torch.no_grad()
    def vectors(self, batch: PhotoBatch, latents: Tensor | None = None) -> dict[FeaturePart, Tensor]:
        """Raw vectors [B, D] of each part, which a FeatureSpace makes comparable.

        `latents` are those of the batch, where they are known already.
        """
        found: dict[FeaturePart, Tensor] = {}
        if "latents" in parts_of(self.kind):
            found["latents"] = pool_latents(self.latents(batch) if latents is None else latents)
        if self.backbone is not None:
            found["backbone"] = self.backbone.embed(as_images(batch.images[-1]).to(self.device)).float().cpu()
        return found

    def _native_size(self) -> tuple[int, int]:
        """A square of the side that the autoencoder's config names, at most 256."""
        config = self.autoencoder.autoencoder.config
        side = min(int(config.sample_size or 256), 256)
        side -= side % self.autoencoder.downsample_factor
        return side, side


def stored_model(name: str, stored_in: Path | str) -> str:
    """The model that an index or an archive names, where it is a folder or file of this machine, or the starter.

    Raises WeightsError where it is none: a stored name never makes a download, since the file that holds it may come
    from somebody else. A folder that was called starter is stored as a path, so that the name is the package's.
    """
    if name == starter.STARTER:
        return str(starter.STARTER_FOLDER)
    if Path(name).expanduser().exists() and not name.startswith(HUB_PREFIX):
        return name
    if not is_of_the_hub(name):
        raise WeightsError(f"{stored_in}: its model {name} is gone; say with --model where it lies now")
    raise WeightsError(
        f"{stored_in}: its model {name} is no folder on this machine, and is not downloaded automatically; say "
        f"with --model where it lies now, or --model {name} for the one on the Hub"
    )


def lasting_model(source: str) -> str:
    """The name by which a model is stored: the same one, whatever folder the next command is started in."""
    if starter.is_starter(source):
        return starter.STARTER
    return source if is_of_the_hub(source) else str(Path(source).expanduser().resolve())
