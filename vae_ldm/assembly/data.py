"""Makes pictures and their prompts from the recipe's data."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vae_ldm.data.crop_advice import crop_advice
from vae_ldm.data.hub_dataset import HubDatasetSource
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.listing import PhotosMissingError
from vae_ldm.data.picture_cache import Progress, cached_pictures, class_caption, load_pictures
from vae_ldm.data.picture_settings import PictureSettings
from vae_ldm.data.pictures import Pictures, PictureSplits
from vae_ldm.data.sources import PictureSource, RenderedClaimsSource
from vae_ldm.errors import DataError
from vae_ldm.recipe import Recipe, parts


def build_source(recipe: Recipe) -> PictureSource:
    """Where the pictures of the recipe come from. Raises DataError where there are none."""
    data = recipe.data
    match data:
        case parts.RenderedClaims():
            return RenderedClaimsSource(
                num_train=data.num_train,
                num_validation=data.num_validation,
                image_size=recipe.image_size,
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

    Where the folder of photos is gone, the pictures decoded before under the same settings serve, and a line says so.
    Raises DataError where there are none.
    """
    data = recipe.data
    settings = picture_settings(recipe)
    try:
        source = build_source(recipe)
    except PhotosMissingError as missing:
        kept = cached_pictures(cache_dir, settings)
        if kept is None:
            raise
        say(f"{missing}; going on with the pictures in {cache_dir}, which were decoded from it")
        return kept
    if advice := crop_advice(source, recipe.image_size, data.resize):
        say(advice)
    return load_pictures(source, cache_dir, settings, progress=progress)


def picture_settings(recipe: Recipe) -> PictureSettings:
    """How the recipe's pictures are made of its photos."""
    data = recipe.data
    return PictureSettings(
        image_size=recipe.image_size,
        channels=data.channels,
        resize=data.resize,
        max_pixels=data.max_pixels,
        max_unreadable_share=data.max_unreadable_share,
        caption_template=data.caption_template,
        validation_fraction=data.validation_fraction,
    )


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
