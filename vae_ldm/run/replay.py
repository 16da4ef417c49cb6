"""The recipe that travels with a pushed run, read so that it can be run again here."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vae_ldm.errors import RecipeError
from vae_ldm.hub import download_recipe
from vae_ldm.recipe import Recipe, read_recipe
from vae_ldm.recipe.document import parse_file
from vae_ldm.recipe.portable import NOT_TRAVELLING, decided_by_a_stranger


def read_hub_recipe(
    name: str,
    overrides: Sequence[str] = (),
    *,
    only_shown: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Recipe:
    """The recipe of hf://ORG/NAME or hf://ORG/NAME@REVISION under `overrides`; `warn` as of `read_recipe`.

    A stranger must not decide what is for whoever runs it: loggers are left out, and `warn` is told so. A recipe that
    is `only_shown` may lack the paths that its maker has left out.

    Raises HubError where there is no recipe, and RecipeError where it is wrong, or says where to write, where to push
    or which local files to read, and no override says otherwise.
    """
    path = download_recipe(name)
    if warn is not None and _sets_loggers(path):
        warn(f"{name}: its recipe sets loggers, which are left out; name your own with loggers=[{{type: ...}}]")
    recipe = read_recipe(path, overrides, without=["loggers"], warn=warn)
    for key in decided_by_a_stranger(recipe, overrides):
        if only_shown and key not in NOT_TRAVELLING:
            continue
        raise RecipeError(
            f"{name}: its recipe sets {key}, which is not for a recipe from the Hub to decide; "
            f"set it yourself with {key}=..."
        )
    return recipe


def _sets_loggers(path: Path) -> bool:
    """Whether a recipe names a logger other than the default, which stays in the run folder."""
    loggers = parse_file(path)[0].child("loggers")
    return loggers is not None and loggers.plain() not in ([], [{"type": "tensorboard"}])
