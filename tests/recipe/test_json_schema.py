import json
from pathlib import Path

from vae_ldm.recipe import recipe_json_schema

COMMITTED = Path(__file__).parents[2] / "recipes" / "schema.json"


def test_the_committed_schema_is_the_generated_one():
    assert COMMITTED.read_text() == recipe_json_schema(), "run: vae-ldm recipe schema > recipes/schema.json"


def test_it_carries_descriptions_and_is_closed():
    schema = json.loads(recipe_json_schema())
    assert schema["properties"]["name"]["description"] == "Name of the run folder inside output_dir."
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


def test_a_type_has_to_be_written_where_it_chooses():
    parts = json.loads(recipe_json_schema())["$defs"]
    tagged = {name for name, part in parts.items() if "type" in part["properties"]}
    assert {"L1", "Huber", "ImageFolder", "Lpips"} <= tagged
    assert all("type" in parts[name]["required"] for name in tagged)
    assert parts["ImageFolder"]["required"] == ["type", "path"]
