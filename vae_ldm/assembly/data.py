"""Makes pictures and their prompts from the recipe's data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vae_ldm.data.crop_advice import crop_advice
from vae_ldm.data.hub_dataset import HubDatasetSource
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.listing import PhotosMissingError
from vae_ldm.data.mixture import folders_of_mixture, joined, keep_mixture, source_folder
from vae_ldm.data.picture_cache import (
    Progress,
    cached_pictures,
    class_caption,
    load_pictures,
    source_key,
    tell_of_classes,
)
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.pictures import Pictures, PictureSplits
from vae_ldm.data.sampling import Shares
from vae_ldm.data.sources import PictureSource, RenderedClaimsSource
from vae_ldm.errors import DataError
from vae_ldm.recipe import Recipe, parts


@dataclass(frozen=True)
class ReadySource:
    """One source of the recipe's pictures, found, and how its pictures are made."""

    key: str
    """Where the recipe writes it, dotted: `data`, or `data.sources[0]` of a mixture."""
    part: parts.OneSource
    share: float
    """Of the training pictures drawn, in (0, 1]."""
    source: PictureSource
    settings: PictureSettings

    def cache(self, cache_dir: Path) -> Path:
        """Where its decoded pictures lie, or will lie, in the folder of all of them."""
        return cache_dir if self.key == "data" else source_folder(cache_dir, source_key(self.source, self.settings))


def build_sources(recipe: Recipe) -> list[ReadySource]:
    """Where the pictures of the recipe come from, in order. Raises DataError where there are none."""
    asked = recipe.data.all_sources
    total = sum(one.weight for one in asked)
    return [
        ReadySource(one.key, one.part, one.weight / total, _found(recipe, one), picture_settings(one.part))
        for one in asked
    ]


def _found(recipe: Recipe, one: parts.SourceOf) -> PictureSource:
    if not isinstance(recipe.data, parts.Mixture):
        return _build_source(one.part)
    try:
        return _build_source(one.part)
    except PhotosMissingError as error:
        raise PhotosMissingError(f"{one.key}: {error}") from error
    except DataError as error:
        raise DataError(f"{one.key}: {error}") from error


def _build_source(data: parts.OneSource) -> PictureSource:
    match data:
        case parts.RenderedClaims():
            return RenderedClaimsSource(
                num_train=data.num_train,
                num_validation=data.num_validation,
                image_size=parts.both_sides(data.image_size),
                detail=data.detail,
            )
        case parts.ImageFolder():
            return ImageFolderSource(data.path, caption_column=data.caption_column)
        case parts.HubDataset():
            return HubDatasetSource(**data.model_dump(include=set(parts.HubDataset.model_fields) & _HUB_KEYS))


_HUB_KEYS = {
    "path",
    "config_name",
    "revision",
    "train_split",
    "validation_split",
    "image_column",
    "label_column",
    "caption_column",
    "streaming",
    "max_images",
}


def decode_pictures(
    recipe: Recipe, cache_dir: Path, *, say: Callable[[str], None], progress: Progress | None = None
) -> PictureSplits:
    """Both splits of the recipe's pictures, decoded into `cache_dir` where they are not there already.

    Each source of a mixture has a cache of its own in there. Where a folder of photos is gone, the pictures decoded
    before under the same settings serve, and a line says so. Raises DataError where there are none.
    """
    sources = recipe.data.all_sources
    if not isinstance(recipe.data, parts.Mixture):
        found = _found_or_missing(recipe, sources[0])
        return _decode(found, sources[0], cache_dir, say=say, progress=progress)
    before = _decoded_before(cache_dir)
    decoded: list[PictureSplits] = []
    kept: list[tuple[Path, dict[str, Any]]] = []
    for one in sources:
        found, asked = _found_or_missing(recipe, one), one.part.model_dump(mode="json", exclude=_OF_VIEWS)
        if isinstance(found, PhotosMissingError):
            folder = next((folder for folder, other in before if other == asked), None)
            if folder is None:
                raise found
        else:
            folder = source_folder(cache_dir, source_key(found, picture_settings(one.part)))
        decoded.append(_decode(found, one, folder, say=say, progress=progress, is_whole=False))
        kept.append((folder, asked))
    keep_mixture(cache_dir, kept)
    whole = joined(decoded)
    tell_of_classes(whole, recipe.data.caption_template)
    return whole


_OF_VIEWS = {"horizontal_flip", "color_jitter", "random_resized_crop", "max_unreadable_share"}
"""Keys of a source that its decoded pictures do not follow from."""


def _found_or_missing(recipe: Recipe, one: parts.SourceOf) -> PictureSource | PhotosMissingError:
    try:
        return _found(recipe, one)
    except PhotosMissingError as missing:
        return missing


def _decoded_before(cache_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    try:
        return folders_of_mixture(cache_dir) or []
    except DataError:  # damaged; it is written anew
        return []


def _decode(
    found: PictureSource | PhotosMissingError,
    one: parts.SourceOf,
    folder: Path,
    *,
    say: Callable[[str], None],
    progress: Progress | None,
    is_whole: bool = True,
) -> PictureSplits:
    """Both splits of one source, from its own cache."""
    settings = picture_settings(one.part)
    if isinstance(found, PhotosMissingError):
        kept = cached_pictures(folder, settings)
        if kept is None:
            raise found
        say(f"{found}; going on with the pictures in {folder}, which were decoded from it")
        return kept
    if advice := crop_advice(found, settings.image_size, settings.resize, key=one.key):
        say(advice)
    return load_pictures(found, folder, settings, progress=progress, is_whole=is_whole)


def picture_settings(data: parts.OneSource) -> PictureSettings:
    """How pictures are made of the photos of a source."""
    return PictureSettings(
        image_size=parts.both_sides(data.image_size),
        channels=data.channels,
        resize=data.resize,
        max_pixels=data.max_pixels,
        max_unreadable_share=data.max_unreadable_share,
        caption_template=data.caption_template,
        validation_fraction=data.validation_fraction,
    )


def shares_of(recipe: Recipe, pictures: Pictures) -> Shares | None:
    """How the sources of a mixture share the pictures drawn; None for a recipe of one source."""
    if pictures.source_counts is None:
        return None
    return Shares(pictures.source_counts, tuple(one.weight for one in recipe.data.all_sources))


def of_each_picture(recipe: Recipe, pictures: Pictures, key: str) -> Any:
    """What the recipe's `data` says under `key`: one value where it is the same for all pictures, else one for each."""
    values = [getattr(one.part, key) for one in recipe.data.all_sources]
    if len(set(values)) == 1:
        return values[0]
    return np.repeat(np.array(values), pictures.source_counts or ())


def class_prompts(recipe: Recipe, class_names: Sequence[str]) -> list[str]:
    """One prompt a class: the caption template, or the empty prompt where the recipe is unconditional."""
    assert recipe.diffusion is not None
    if recipe.diffusion.conditioning == "none":
        return ["" for _ in class_names]
    return [class_caption(recipe.data.caption_template, name) for name in class_names]


def picture_prompts(recipe: Recipe, pictures: Pictures) -> list[str]:
    """The prompt of each picture: none, its class's or its own caption. Raises DataError where it has none."""
    assert recipe.diffusion is not None
    match recipe.diffusion.conditioning:
        case "none":
            return ["" for _ in pictures.ids]
        case "class":
            if not pictures.class_names:
                raise DataError(
                    "diffusion.conditioning is class, but the pictures have no classes; "
                    "put them in one folder a class, or set diffusion.conditioning=none"
                )
            prompts = class_prompts(recipe, pictures.class_names)
            return [prompts[label] if label >= 0 else "" for label in pictures.labels]
        case "caption":
            if not any(pictures.captions):
                raise DataError(
                    "diffusion.conditioning is caption, but no picture has one; set data.caption_column, "
                    "or diffusion.conditioning=class or none"
                )
            return pictures.captions
