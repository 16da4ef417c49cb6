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
    left_out = {name for name in tagged if "type" not in parts[name].get("required", [])}
    assert left_out == {"AdamW", "Ema"}, "meant by default"
    assert parts["ImageFolder"]["required"] == ["type", "path"]


def _nodes(schema, path="$"):
    if isinstance(schema, dict):
        yield path, schema
        for key, value in schema.items():
            if key not in ("default", "const", "enum"):
                yield from _nodes(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for item in schema:
            yield from _nodes(item, path)


def test_every_number_text_and_list_has_an_upper_bound():
    bounds = {
        "integer": {"maximum", "exclusiveMaximum"},
        "number": {"maximum", "exclusiveMaximum"},
        "string": {"maxLength"},
        "array": {"maxItems"},
    }
    found = _nodes(json.loads(recipe_json_schema()))
    nodes = [(path, node) for path, node in found if isinstance(node.get("type"), str) and node["type"] in bounds]
    assert len(nodes) > 100
    chosen = {"const", "enum"}
    assert [path for path, node in nodes if not (bounds[node["type"]] | chosen) & node.keys()] == []
