"""What draws from photos for the claims desk: a pipeline, with the size and the settings it was made for."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vae_ldm.choices import Resize
from vae_ldm.data.photo_stream import decoded_batches
from vae_ldm.data.sources import Record
from vae_ldm.errors import DataError
from vae_ldm.models.batches import batch_size_for
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.opening import RunPaths, open_pipeline, settings_of


class PhotoPipeline:
    """The pipeline of a run, of a folder or of ORG/NAME, and photos at the size that it draws."""

    def __init__(self, source: str | Path) -> None:
        """Raises WeightsError where there is no pipeline, HubError where it cannot be had."""
        self.source = str(source)
        self.pipeline = open_pipeline(source)
        self.settings = settings_of(source)
        self.image_size: tuple[int, int] = self.settings.image_size or self._native_size()
        self.resize: Resize = self.settings.resize
        self.channels: int = self.pipeline.vae.config.in_channels

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.pipeline.unet.device

    @property
    def batch_size(self) -> int:
        """Pictures drawn at once: 16 up to 128 px, fewer larger ones, so that memory stays bounded."""
        return batch_size_for(self.image_size, most=16, up_to=128)

    @property
    def run(self) -> RunPaths | None:
        """The run folder that the pipeline is of; None where it comes from elsewhere."""
        return self.settings.run

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all weights that a picture follows from."""
        networks = (self.pipeline.vae, self.pipeline.unet, self.pipeline.text_encoder)
        return hashlib.sha256("".join(map(weights_digest, networks)).encode()).hexdigest()

    def photos(
        self, records: Sequence[Record], *, on_unreadable: Callable[[Record, str], None] | None = None
    ) -> np.ndarray:
        """uint8 [N, H, W, C] of those that can be read, at the pipeline's size.

        Raises DataError for one that cannot be read where nothing is to be told of it by `on_unreadable`.
        """

        def refuse(record: Record, reason: str) -> None:
            raise DataError(f"{record.place}: cannot be read ({reason})")

        batches = decoded_batches(
            records,
            [self.image_size],
            channels=self.channels,
            resize=self.resize,
            on_unreadable=on_unreadable or refuse,
        )
        nothing = np.empty((0, *self.image_size, self.channels), np.uint8)
        return np.concatenate([nothing, *(batch.images[0] for batch in batches)])

    def photo(self, file: Path) -> np.ndarray:
        """uint8 [1, H, W, C] of one file. Raises DataError where it is not a picture that can be read."""
        if not file.is_file():
            raise DataError(f"{file}: {'is a folder; give one photo' if file.is_dir() else 'no such photo'}")
        return self.photos([Record(file.name, file)])

    def _native_size(self) -> tuple[int, int]:
        size = self.pipeline.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.pipeline.vae_scale_factor, width * self.pipeline.vae_scale_factor
