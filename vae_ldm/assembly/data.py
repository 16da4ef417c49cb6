"""From the recipe's data to pictures and their prompts."""

from collections.abc import Sequence

from vae_ldm.data.hub_dataset import HubDatasetSource
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.picture_cache import class_caption
from vae_ldm.data.pictures import Pictures
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
