"""The recipe's JSON Schema, for editors that complete and check YAML."""

import json

from vae_ldm.recipe.parts import Part
from vae_ldm.recipe.schema import Recipe


def recipe_json_schema() -> str:
    """The text of recipes/schema.json, with the attributes' docstrings as descriptions."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    may_be_left_out = {part.__name__ for part in Part.__subclasses__() if part.type_may_be_left_out}
    for name, part in schema["$defs"].items():
        # A tag has a default for whoever builds a part in Python; in YAML it has to be written.
        if "const" in part["properties"].get("type", {}) and name not in may_be_left_out:
            part["required"] = ["type", *part.get("required", [])]
            del part["properties"]["type"]["default"]
    return json.dumps(schema, indent=2) + "\n"
