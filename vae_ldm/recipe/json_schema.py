"""The recipe's JSON Schema, for editors that complete and check YAML."""

import json

from vae_ldm.recipe.schema import Recipe


def recipe_json_schema() -> str:
    """The text of recipes/schema.json, with the attributes' docstrings as descriptions."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    for part in schema["$defs"].values():
        # A tag has a default for whoever builds a part in Python; in YAML it has to be written.
        if "const" in part["properties"].get("type", {}):
            part["required"] = ["type", *part.get("required", [])]
            del part["properties"]["type"]["default"]
    return json.dumps(schema, indent=2) + "\n"
