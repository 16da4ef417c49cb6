"""A checked recipe as YAML, and what differs between two."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from vae_ldm.files import write_whole
from vae_ldm.recipe.agreement import DERIVED_FROM_WEIGHTS
from vae_ldm.recipe.document import read_scalar, shown
from vae_ldm.recipe.schema import Recipe


class _Representer(SafeRepresenter):
    """Lists in brackets, and quotes around every text that our stricter YAML 1.2 would read as something else."""

    def represent_list(self, data: list[Any]) -> SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_str(self, data: str) -> ScalarNode:
        style = None if isinstance(read_scalar(data), str) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(list, _Representer.represent_list)
_Representer.add_representer(str, _Representer.represent_str)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe, all defaults written out, as YAML that reads back to an equal recipe."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1_000_000
    stream = io.StringIO()
    yaml.dump(_resolved(recipe), stream)
    return stream.getvalue()


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe to `path`, whole or not at all."""
    write_whole(path, dump_recipe(recipe))


def recipe_differences(old: Recipe, new: Recipe, section: str = "") -> list[str]:
    """One line `key: old -> new` for each setting that differs at or below the dotted key path `section`."""
    was, now = (_at(_resolved(recipe), section) for recipe in (old, new))
    return _differences(was, now, section)


def _at(value: Any, section: str) -> Any:
    for key in section.split(".") if section else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _differences(was: Any, now: Any, path: str) -> list[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*was, *now])
        if was.get("type") != now.get("type"):
            keys = {key: None for key in keys if key in was and key in now}
        below = ((key, f"{path}.{key}" if path else key) for key in keys)
        return [line for key, at in below for line in _differences(was.get(key), now.get(key), at)]
    return [] if was == now else [f"{path}: {_brief(was)} -> {_brief(now)}"]


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return "{...}"
    return value if isinstance(value, str) else shown(value)


def _resolved(recipe: Recipe) -> dict[str, Any]:
    resolved = recipe.model_dump(mode="json")
    for stage, keys in DERIVED_FROM_WEIGHTS.items():
        if resolved[stage] is not None and resolved[stage]["from_pretrained"] is not None:
            for key in keys:
                del resolved[stage][key]
    return resolved
