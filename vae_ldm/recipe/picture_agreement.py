"""Sizes, crops, templates and sources of a recipe that are right by themselves and wrong together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vae_ldm.recipe.disagreement import Disagreement
from vae_ldm.recipe.document import key_path
from vae_ldm.recipe.parts import Data, Mixture, SourceOf, both_sides

if TYPE_CHECKING:
    from vae_ldm.recipe.schema import Recipe


def template_disagreements(data: Data) -> Iterator[Disagreement]:
    """Templates of captions without a place for the class."""
    for key, template in _caption_templates(data).items():
        if "{label}" not in template:
            yield Disagreement((key,), "must hold {label}, where the class's name goes")


def discriminator_disagreements(recipe: "Recipe") -> Iterator[Disagreement]:
    """The discriminator joins late: a picture that is too small for it would end the run half-way."""
    adversarial, crop = recipe.autoencoder.loss.adversarial, recipe.autoencoder.crop_size
    sizes = {"autoencoder.crop_size": both_sides(crop)} if crop is not None else _size_keys(recipe)
    for key, size in sizes.items():
        shorter = min(size)
        if adversarial is not None and shorter < 2**adversarial.num_layers:
            text = f"its layers halve {shorter} px to less than one; at most {shorter.bit_length() - 1} fit"
            yield Disagreement(("autoencoder.loss.adversarial.num_layers", key), text)


def size_disagreements(recipe: "Recipe") -> Iterator[Disagreement]:
    """Sides that a new autoencoder does not halve as often as it is asked to."""
    factor, crop = recipe.autoencoder.downsample_factor, recipe.autoencoder.crop_size
    sizes = _size_keys(recipe)
    if crop is not None:
        sizes["autoencoder.crop_size"] = both_sides(crop)
    for key, (height, width) in sizes.items():
        if height % factor or width % factor:
            text = (
                f"{height}x{width} is not divisible by autoencoder.downsample_factor {factor}; "
                f"the nearest that is: {_nearest(height, factor)}x{_nearest(width, factor)}"
            )
            yield Disagreement((key, "autoencoder.downsample_factor"), text)


def crop_disagreements(recipe: "Recipe") -> Iterator[Disagreement]:
    """Crops that do not fit into the pictures, and what is said of crops where there are none."""
    crop, key = recipe.autoencoder.crop_size, "autoencoder.crop_size"
    if crop is not None:
        for of_size, size in _size_keys(recipe).items():
            if any(c > s for c, s in zip(both_sides(crop), size, strict=True)):
                yield Disagreement((key, of_size), f"larger than {of_size}")
        return
    flags = {
        _key_of(recipe.data, one, "random_resized_crop"): one.part.random_resized_crop
        for one in recipe.data.all_sources
    }
    for flag, is_set in flags.items():
        if is_set:
            yield Disagreement((flag, key), f"means nothing without {key}")


def mixture_disagreements(recipe: "Recipe", data: Mixture) -> Iterator[Disagreement]:
    """Sources that cannot be learned from together."""
    sources, first = data.all_sources, data.all_sources[0]
    sizes = _size_keys(recipe)
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width}" for height, width in sizes.values())
        keys = tuple(reversed(sizes))
        if recipe.diffusion is not None:
            text = f"a UNet draws pictures of one size, and the sources have {listed}; give all the same image_size"
            yield Disagreement((*keys, "diffusion"), text)
        elif recipe.autoencoder.crop_size is None and recipe.autoencoder.train != "nothing":
            text = f"the sources have {listed}, and a batch holds one size; set autoencoder.crop_size, to fit into each"
            yield Disagreement((*keys, "autoencoder.crop_size"), text)
    for source in sources[1:]:
        if (source.part.channels == 4) != (first.part.channels == 4):
            keys = (_key_of(data, source, "channels"), _key_of(data, first, "channels"), "data.channels")
            yield Disagreement(keys, "4 (RGBA) is for all sources of a mixture or for none; set data.channels: 4")
    if recipe.diffusion is not None and recipe.diffusion.conditioning == "class":
        for key, template in _caption_templates(data).items():
            if template != data.caption_template:
                text = "a class has one prompt in all sources; set data.caption_template, or conditioning: caption"
                yield Disagreement((key, "diffusion.conditioning"), text)


def pipeline_size_disagreements(recipe: "Recipe") -> Iterator[Disagreement]:
    """StableDiffusionPipeline draws sides divisible by 8 only, whatever the autoencoder's factor is."""
    (height, width), multiple = recipe.image_size, 8
    factor = 1 if recipe.autoencoder.from_pretrained is not None else recipe.autoencoder.downsample_factor
    said_already = height % factor or width % factor
    if not said_already and (height % multiple or width % multiple):
        text = (
            f"{height}x{width} is not divisible by {multiple}, as a StableDiffusionPipeline needs it; "
            f"the nearest that is: {_nearest(height, multiple)}x{_nearest(width, multiple)}"
        )
        yield Disagreement(("data.image_size", "diffusion"), text)


def _size_keys(recipe: "Recipe") -> dict[str, tuple[int, int]]:
    """Each size of the pictures, by the key that gives it; a size that several sources share is there once."""
    sizes: dict[str, tuple[int, int]] = {}
    for source in recipe.data.all_sources:
        size = both_sides(source.part.image_size)
        if size not in sizes.values():
            sizes[_key_of(recipe.data, source, "image_size")] = size
    return sizes


def _key_of(data: Data, source: SourceOf, key: str) -> str:
    """Where the recipe says what a key of the source is: there, or for the whole mixture."""
    if isinstance(data, Mixture) and getattr(data.sources[_number(source)], key) is None:
        return f"data.{key}"
    return f"{source.key}.{key}"


def _number(source: SourceOf) -> int:
    """The place of a mixture's source, from 0."""
    number = key_path(source.key)[-1]
    assert isinstance(number, int)
    return number


def _caption_templates(data: Data) -> dict[str, str]:
    own = {_key_of(data, source, "caption_template"): source.part.caption_template for source in data.all_sources}
    return {"data.caption_template": data.caption_template} | own


def _nearest(side: int, factor: int) -> int:
    return max(factor, round(side / factor) * factor)
