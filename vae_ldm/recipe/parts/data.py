"""Where the photos come from."""

from typing import Annotated, Literal

from pydantic import Field

from vae_ldm.choices import Detail, Resize
from vae_ldm.recipe.parts.base import (
    Caption,
    Count,
    HubDatasetName,
    ImageSize,
    LocalPath,
    Part,
    Share,
    WholeNumber,
    Word,
)


class _Pictures(Part):
    image_size: ImageSize = 64
    """Side in pixels, or [height, width]. Every picture is brought to this size."""
    channels: Annotated[Literal[1, 3, 4] | None, WholeNumber] = None
    """1 grey, 3 RGB, 4 RGBA; null: 1 when every picture is grey, else 3 (alpha is laid over white)."""
    resize: Resize = "crop"
    """crop: fill the size and cut the middle; pad: fit into the size and fill up with the border's mean colour."""
    horizontal_flip: bool = False
    """Mirror half of the training pictures, anew each time they are seen."""
    color_jitter: Share = 0.0
    """Largest relative change of brightness, contrast and saturation while training; 0 is off."""
    caption_template: Caption = "a photo of {label}"
    """Caption of a picture that has a class but no caption of its own; underscores in a class name become spaces."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share held out by a hash of the file name, used only where the data has no validation split."""
    max_unreadable_share: Share = 0.01
    """Unreadable files are listed and skipped up to this share; beyond it the run stops before training."""
    max_pixels: Annotated[int, Field(gt=0, le=10_000_000_000)] = 89_478_485
    """A picture with more pixels than this is refused as a decompression bomb (Pillow's own limit)."""

    @property
    def photo_folder(self) -> str | None:
        """The folder of this machine whose photos are learned from; None for pictures of any other origin."""
        return None


class RenderedClaims(_Pictures):
    """Pictures drawn by code: bezels, parcels and tins that are good, cracked, scratched or dented, and labels."""

    type: Literal["rendered_claims"] = "rendered_claims"
    num_train: Count = 6000
    num_validation: Count = 600
    detail: Detail = "plain"
    """plain: bold damage that survives at 32 px; fine: thin cracks, small print and soft light, for 64 px and more."""


class ImageFolder(_Pictures):
    """A folder as `datasets` imagefolder reads it: class folders, or metadata.jsonl, with or without splits."""

    type: Literal["image_folder"] = "image_folder"
    path: LocalPath
    caption_column: Word | None = None
    """Column of metadata.jsonl that holds the caption; null: the template on the class, else `caption` or `text`."""

    @property
    def photo_folder(self) -> str:
        return self.path


class HubDataset(_Pictures):
    """Any `datasets` data set: a Hub name, or a local folder of parquet or webdataset shards."""

    type: Literal["hub_dataset"] = "hub_dataset"
    path: HubDatasetName
    config_name: Word | None = None
    revision: Word | None = None
    train_split: Word = "train"
    validation_split: Word | None = None
    image_column: Word = "image"
    label_column: Word | None = None
    caption_column: Word | None = None
    streaming: bool = False
    """Read shard by shard instead of downloading first."""
    max_images: Count | None = None
    """Stop after this many training pictures; null: all of them."""


Data = Annotated[RenderedClaims | ImageFolder | HubDataset, Field(discriminator="type")]
