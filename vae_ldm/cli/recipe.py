"""The verbs about recipes, and how any verb reads one."""

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vae_ldm.cli import paths
from vae_ldm.errors import VaeLdmError
from vae_ldm.text import shown

if TYPE_CHECKING:
    from vae_ldm.recipe import Recipe

_WIDTH_OF_LIST = 92

app = typer.Typer(help="Check, show and find recipes.", no_args_is_help=True, rich_markup_mode=None)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, the name of a packaged recipe, or hf://ORG/NAME.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Settings that replace the recipe's.")
]


def _is_on_the_hub(recipe: str) -> bool:
    return recipe.startswith("hf://")


def read_recipe_argument(recipe: str, overrides: list[str] | None, *, only_shown: bool = False) -> "Recipe":
    if _is_on_the_hub(recipe):
        from vae_ldm.run.replay import read_hub_recipe

        return read_hub_recipe(recipe, overrides or (), only_shown=only_shown, warn=_warn)
    from vae_ldm.recipe import find_recipe, read_recipe

    return read_recipe(find_recipe(recipe), overrides or (), warn=_warn)


def _warn(line: str) -> None:
    """Print the line once, however many processes `accelerate launch` has started."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(shown(line), err=True)


def read_recipe_to_run(recipe: str, overrides: list[str] | None) -> "Recipe":
    """The recipe that `train` runs: that of a run folder goes on in this folder, wherever it was moved."""
    read = read_recipe_argument(recipe, overrides)
    if _is_on_the_hub(recipe):
        return read
    from vae_ldm.recipe import find_recipe
    from vae_ldm.run.places import at_its_place

    return at_its_place(read, find_recipe(recipe), overrides or (), _warn)


@app.command()
def check(recipe: RecipeArgument, overrides: OverridesArgument = None) -> None:
    """Say whether a recipe is in order, or name every mistake in it."""
    from vae_ldm.recipe import find_recipe

    read_recipe_argument(recipe, overrides, only_shown=True)
    typer.echo(shown(f"{recipe if _is_on_the_hub(recipe) else find_recipe(recipe)}: in order"))


@app.command()
def show(recipe: RecipeArgument, overrides: OverridesArgument = None) -> None:
    """Print a recipe with every default written out."""
    from vae_ldm.recipe import dump_recipe

    typer.echo(dump_recipe(read_recipe_argument(recipe, overrides, only_shown=True)), nl=False)


@app.command()
def upgrade(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recipe of an older version of vae_ldm.", callback=paths.any_path)
    ],
) -> None:
    """Print a recipe in the newest format. Comments are kept; what was changed goes to the error stream."""
    from vae_ldm.recipe import upgrade_recipe

    text, changes = upgrade_recipe(file)
    typer.echo(text, nl=False)
    for line in changes:
        typer.echo(shown(f"{file}: {line}"), err=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from vae_ldm.recipe import recipe_json_schema

    typer.echo(recipe_json_schema(), nl=False)


@app.command("list")
def list_recipes() -> None:
    """List the packaged recipes, each with its opening comment."""
    from vae_ldm.recipe import first_comment, packaged_recipes

    for name, path in packaged_recipes().items():
        command, *about = first_comment(path) or [""]
        typer.echo(shown(name))
        lines = [command, *textwrap.wrap(" ".join(about), _WIDTH_OF_LIST)]
        typer.echo("".join(f"    {shown(line)}\n" for line in lines if line), nl=False)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A packaged recipe.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="A file or folder.", callback=paths.any_path)
    ] = Path(),
) -> None:
    """Copy a packaged recipe, to be changed. An existing file is never overwritten."""
    from vae_ldm.recipe import packaged_recipe

    source = packaged_recipe(name)
    target = destination / source.name if destination.is_dir() else destination
    try:
        with target.open("xb") as stream:
            stream.write(source.read_bytes())
    except FileExistsError:
        raise VaeLdmError(f"{target}: exists already; name another file") from None
    except FileNotFoundError:
        raise VaeLdmError(f"{target.parent}: no such folder") from None
    typer.echo(shown(str(target)))
