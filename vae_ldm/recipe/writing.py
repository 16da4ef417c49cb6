"""A checked recipe as YAML, and what differs between two."""

import io
import math
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from vae_ldm.files import write_whole
from vae_ldm.recipe.document import as_yaml, read_scalar
from vae_ldm.recipe.parts import Part, TrainedTextEncoder, is_decided_by_weights
from vae_ldm.recipe.schema import Recipe
from vae_ldm.recipe.stages import TRAINED

_LINE_SEPARATORS = frozenset("\x85\u2028\u2029")
"""Line breaks to ruamel, which would fold them; between double quotes they are escaped."""


class _Representer(SafeRepresenter):
    """Lists in brackets, and quotes around every text that our stricter YAML 1.2 would read as something else."""

    def represent_list(self, data: list[Any]) -> SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_str(self, data: str) -> ScalarNode:
        is_plain = isinstance(read_scalar(data), str) and not _LINE_SEPARATORS.intersection(data)
        style = None if is_plain else '"'
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
    write_whole(path, dump_recipe(recipe), synced=True)


def recipe_differences(old: Recipe, new: Recipe, section: str = "") -> list[str]:
    """One line `key: old -> new` for each setting that differs at or below the dotted key path `section`.

    Settings that mean the same in both recipes do not differ, however they are written.
    """
    was, now = _comparable(old), _comparable(new.as_begun(old))
    if _same_kl_weight(old, new):
        now["autoencoder"]["loss"] |= _kl_weights(old)
    return _differences(_at(was, section), _at(now, section), section)


def _comparable(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe with the KL term's two weights side by side, and in the place of null what it means for
    timesteps and prompts.
    """
    resolved, stage = _resolved(recipe), recipe.diffusion
    resolved["autoencoder"]["loss"] |= _kl_weights(recipe)
    if stage is not None and stage.from_pretrained is None and stage.timestep_sampling is None:
        is_flow = stage.prediction_type == "flow_prediction"
        resolved["diffusion"]["timestep_sampling"] = "logit_normal" if is_flow else "uniform"
    if stage is not None and stage.from_pretrained is None and isinstance(stage.text_encoder, TrainedTextEncoder):
        resolved["diffusion"]["text_encoder"]["min_length"] = stage.text_encoder.fewest_tokens
    return resolved


def _kl_weights(recipe: Recipe) -> dict[str, float | None]:
    loss = recipe.autoencoder.loss
    return {"kl_weight_per_latent": loss.kl_weight_per_latent, "kl_weight": loss.kl_weight}


def _same_kl_weight(old: Recipe, new: Recipe) -> bool:
    """Whether the recipes weigh the KL alike, one per picture and the other per latent number."""
    weights = []
    for recipe in (old, new):
        loss, latents = recipe.autoencoder.loss, recipe.num_latents
        if loss.kl_weight is not None:
            weights.append(loss.kl_weight)
        elif loss.kl_weight_per_latent is not None and latents is not None:
            weights.append(loss.kl_weight_per_latent / latents)
    written_alike = (old.autoencoder.loss.kl_weight is None) == (new.autoencoder.loss.kl_weight is None)
    return not written_alike and len(weights) == 2 and math.isclose(*weights, rel_tol=1e-12)


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
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = enumerate(zip(was, now, strict=True))
        if all(isinstance(item, dict) for item in (*was, *now)):
            return [line for number, (old, new) in pairs for line in _differences(old, new, f"{path}[{number}]")]
    return [] if was == now else [f"{path}: {_brief(was)} -> {_brief(now)}"]


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return "{...}"
    return value if isinstance(value, str) else as_yaml(value)


def _resolved(recipe: Recipe) -> dict[str, Any]:
    resolved = recipe.model_dump(mode="json")
    loss = resolved["autoencoder"]["loss"]
    for key in ("kl_weight", "kl_weight_per_latent"):  # a recipe has one of the two
        if loss[key] is None:
            del loss[key]
    for stage in TRAINED:
        part: Part | None = getattr(recipe, stage.name)
        if part is not None and getattr(part, "from_pretrained", None) is not None:
            for key, field in type(part).model_fields.items():
                if is_decided_by_weights(field):
                    del resolved[stage.name][key]
    return resolved
