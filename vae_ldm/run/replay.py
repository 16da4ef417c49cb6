"""The recipe that travels with a pushed run, read so that it can be run again here."""

from collections.abc import Callable, Sequence

from vae_ldm.errors import RecipeError
from vae_ldm.hub import download_recipe
from vae_ldm.recipe import Recipe, read_recipe


def read_hub_recipe(name: str, overrides: Sequence[str] = (), *, warn: Callable[[str], None] | None = None) -> Recipe:
    """The recipe of hf://ORG/NAME or hf://ORG/NAME@REVISION under `overrides`; `warn` as of `read_recipe`.

    Raises HubError where there is none, and RecipeError where it is wrong or says where to write or to push: that is
    for whoever runs it, and a stranger's recipe must not decide it.
    """
    path = download_recipe(name)
    recipe = read_recipe(path)
    for key in ("output_dir", "hub"):
        if getattr(recipe, key) != Recipe.model_fields[key].default:
            raise RecipeError(f"{name}: its recipe sets {key}, which is not for a recipe from the Hub to decide")
    return read_recipe(path, overrides, warn=warn)
