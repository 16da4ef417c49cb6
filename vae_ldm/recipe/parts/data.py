"""Where the photos come from."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, Strict

from vae_ldm.choices import Detail, Resize
from vae_ldm.recipe.parts.base import (
    Caption,
    Count,
    HubDatasetName,
    ImageSize,
    LocalPath,
    Part,
    PositiveWeight,
    Share,
    WholeNumber,
    Word,
)

_Channels = Annotated[Literal[1, 3, 4] | None, WholeNumber]
_ValidationFraction = Annotated[float, Field(gt=0, lt=1)]
_MaxPixels = Annotated[int, Field(gt=0, le=10_000_000_000)]


class SourceOf(NamedTuple):
    """One source of a recipe's pictures, with every key that it has, its own or the mixture's."""

    key: str
    """Where the recipe writes it, dotted: `data`, or `data.sources[0]` of a mixture."""
    part: "OneSource"
    weight: float


class _Pictures(Part):
    image_size: ImageSize = 64
    """Side in pixels, or [height, width]. Every picture is brought to this size."""
    channels: _Channels = None
    """1 grey, 3 RGB, 4 RGBA; null: 1 when every picture is grey, else 3 (alpha is laid over white)."""
    resize: Resize = "crop"
    """crop: fill the size and cut the middle; pad: fit into the size and fill up with the border's mean colour."""
    horizontal_flip: bool = False
    """Mirror half of the training pictures, anew each time they are seen."""
    color_jitter: Share = 0.0
    """Largest relative change of brightness, contrast and saturation while training; 0 is off."""
    random_resized_crop: bool = False
    """Train on crops of a random scale: what becomes a crop of autoencoder.crop_size is cut with an area between that
    and the largest that fits into the picture, evenly distributed, at a random place, and is then reduced."""
    caption_template: Caption = "a photo of {label}"
    """Caption of a picture that has a class but no caption of its own; underscores in a class name become spaces."""
    validation_fraction: _ValidationFraction = 0.1
    """Share held out by a hash of the file name, used only where the data has no validation split."""
    max_unreadable_share: Share = 0.01
    """Unreadable files are listed and skipped up to this share; beyond it the run stops before training."""
    max_pixels: _MaxPixels = 89_478_485
    """A picture with more pixels than this is refused as a decompression bomb (Pillow's own limit)."""


class _OneSource(_Pictures):
    @property
    def all_sources(self) -> tuple[SourceOf, ...]:
        """Where the pictures come from: here from one place."""
        assert isinstance(self, RenderedClaims | ImageFolder | HubDataset)
        return (SourceOf("data", self, 1.0),)

    @property
    def photo_folder(self) -> str | None:
        """The folder of this machine whose photos are learned from; None for pictures of any other origin."""
        return None


class _RenderedClaimsKeys(Part):
    type: Literal["rendered_claims"] = "rendered_claims"
    num_train: Count = 6000
    num_validation: Count = 600
    detail: Detail = "plain"
    """plain: bold damage that survives at 32 px; fine: thin cracks, small print and soft light, for 64 px and more."""


class _ImageFolderKeys(Part):
    type: Literal["image_folder"] = "image_folder"
    path: LocalPath
    caption_column: Word | None = None
    """Column of metadata.jsonl that holds the caption; null: the template on the class, else `caption` or `text`."""


class _HubDatasetKeys(Part):
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


class RenderedClaims(_RenderedClaimsKeys, _OneSource):
    """Pictures drawn by code: bezels, parcels and tins that are good, cracked, scratched or dented, and labels."""


class ImageFolder(_ImageFolderKeys, _OneSource):
    """A folder as `datasets` imagefolder reads it: class folders, or metadata.jsonl, with or without splits."""

    @property
    def photo_folder(self) -> str:
        return self.path


class HubDataset(_HubDatasetKeys, _OneSource):
    """Any `datasets` data set: a Hub name, or a local folder of parquet or webdataset shards."""


class _OfMixture(Part):
    weight: PositiveWeight = 1.0
    """Its share of the training pictures drawn is its weight over the sum of weights, however many pictures it has."""
    image_size: ImageSize | None = None
    """null, here and below: that of the mixture."""
    channels: _Channels = None
    resize: Resize | None = None
    horizontal_flip: bool | None = None
    color_jitter: Share | None = None
    random_resized_crop: bool | None = None
    caption_template: Caption | None = None
    validation_fraction: _ValidationFraction | None = None
    max_unreadable_share: Share | None = None
    max_pixels: _MaxPixels | None = None


class MixedRenderedClaims(_RenderedClaimsKeys, _OfMixture):
    """`rendered_claims` as one source of a mixture."""


class MixedImageFolder(_ImageFolderKeys, _OfMixture):
    """`image_folder` as one source of a mixture."""


class MixedHubDataset(_HubDatasetKeys, _OfMixture):
    """`hub_dataset` as one source of a mixture."""


MixedSource = Annotated[MixedRenderedClaims | MixedImageFolder | MixedHubDataset, Field(discriminator="type")]


class Mixture(_Pictures):
    """Several sources, each drawn from by its weight. What a source does not say is as the mixture says."""

    type: Literal["mixture"] = "mixture"
    sources: Annotated[tuple[MixedSource, ...], Strict(False), Field(min_length=1, max_length=100)]

    @property
    def all_sources(self) -> tuple[SourceOf, ...]:
        """The sources in order."""
        shared = {key: getattr(self, key) for key in _Pictures.model_fields}
        found = []
        for number, source in enumerate(self.sources):
            own = {key: getattr(source, key) for key in type(source).model_fields if key != "weight"}
            keys = shared | {key: value for key, value in own.items() if key not in shared or value is not None}
            plain = _PLAIN[source.type].model_construct(**keys)
            found.append(SourceOf(f"data.sources[{number}]", plain, source.weight))
        return tuple(found)

    @property
    def photo_folder(self) -> None:
        """None: a mixture is learned from as a whole, and no folder is all of it."""


OneSource = RenderedClaims | ImageFolder | HubDataset
"""Pictures of one origin."""
_PLAIN: dict[str, type[OneSource]] = {
    "rendered_claims": RenderedClaims,
    "image_folder": ImageFolder,
    "hub_dataset": HubDataset,
}
Data = Annotated[RenderedClaims | ImageFolder | HubDataset | Mixture, Field(discriminator="type")]
