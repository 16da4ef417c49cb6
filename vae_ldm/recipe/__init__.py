"""What a recipe may say, and how one is read. No torch in here."""

from vae_ldm.recipe.json_schema import recipe_json_schema
from vae_ldm.recipe.packaged import find_recipe, first_comment, packaged_recipe, packaged_recipes
from vae_ldm.recipe.reading import read_recipe, upgrade_recipe
from vae_ldm.recipe.schema import Recipe
from vae_ldm.recipe.schema_walk import keys_free_under_way
from vae_ldm.recipe.writing import dump_recipe, recipe_differences, write_recipe

__all__ = [
    "Recipe",
    "dump_recipe",
    "find_recipe",
    "first_comment",
    "keys_free_under_way",
    "packaged_recipe",
    "packaged_recipes",
    "read_recipe",
    "recipe_differences",
    "recipe_json_schema",
    "upgrade_recipe",
    "write_recipe",
]
