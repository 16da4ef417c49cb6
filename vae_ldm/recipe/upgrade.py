"""Older recipes read as they were meant when they were written: one function for each step between two formats.

`format` is a number in the recipe. A format bears the number of the minor version that introduced it, so format 2 came
with vae_ldm 0.2. A recipe without the number was written for 0.1 and is of format 1.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from vae_ldm.errors import RecipeError
from vae_ldm.recipe.document import Node, Scalar, as_yaml, dotted

NEWEST = 2
KL_WEIGHT_OF_FORMAT_1 = 1e-6
"""What `autoencoder.loss.kl_weight` was by default: a weight of the KL summed over all latent numbers of a picture."""


OLD_MIN_LENGTH = 2
"""What `diffusion.text_encoder.min_length` is where a prompt has no more tokens than the longest caption."""


class Change(NamedTuple):
    """One key that a step writes or leaves out."""

    path: tuple[str, ...]
    value: Scalar
    """None where the key is left out."""
    because: str

    def __str__(self) -> str:
        value = "left out" if self.value is None else as_yaml(self.value)
        return f"{dotted(self.path)}: {value} ({self.because})"


def format_of(root: Node) -> int:
    """The format of a recipe's tree. Raises RecipeError where this version does not read it."""
    node = root.child("format")
    if node is None:
        return 1
    value = node.value
    if type(value) is not int or value < 1:
        raise RecipeError(f"{node.origin.label}: format: needs a whole number from 1 to {NEWEST}, not {_brief(node)}")
    if value > NEWEST:
        version = f"0.{as_yaml(value)}"
        raise RecipeError(
            f"{node.origin.label}: format: {as_yaml(value)} came with vae_ldm {version}, and this version reads "
            f"formats up to {NEWEST}; install a newer one: pip install 'vae_ldm>={version}'"
        )
    return value


def upgrade(root: Node, number: int) -> list[Change]:
    """The changes that turn a recipe's tree of format `number` into one of the newest; they are made in `root`.

    A key that a step adds bears the line of the part that it is added to: a mistake still names the user's file.
    """
    assert isinstance(root.value, dict)
    made = []
    for step in _steps_from(number):
        for change in list(step(root.plain())):
            _change_node(root, change)
            made.append(change)
    root.value["format"] = Node(NEWEST, root.origin)
    return made


def upgraded_text(path: Path, number: int) -> tuple[str, list[Change]]:
    """The text of the recipe file at `path` in the newest format, the user's comments kept, and what was changed.

    The file is expected to be a recipe in order, of format `number`.
    """
    yaml: Any = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1_000_000
    text = path.read_text(encoding="utf-8-sig")
    content: Any = yaml.load(text)
    made = []
    for step in _steps_from(number):
        for change in list(step(content)):
            _change_mapping(content, change)
            made.append(change)
    if "format" in content:
        content["format"] = NEWEST
    else:
        content.insert(0, "format", NEWEST)
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue(), made


def _steps_from(number: int) -> list["Step"]:
    return [_STEPS[step] for step in range(number, NEWEST)]


def _from_1_to_2(recipe: Any) -> Iterator[Change]:
    """Format 2 weighs the KL per latent number, chooses timesteps by what is predicted and trains the unknown word.

    Each changes a default, so the old default is written out where the recipe leaves it to the schema. So does the
    room that prompts have beyond the longest caption.
    """
    autoencoder = recipe.get("autoencoder")
    loss = autoencoder.get("loss", {}) if isinstance(autoencoder, dict) else None
    if isinstance(autoencoder, dict) and isinstance(loss, dict):
        path = ("autoencoder", "loss", "kl_weight")
        has_kl = autoencoder.get("train") != "nothing" and autoencoder.get("variational") is not False
        if has_kl and "kl_weight" not in loss and "kl_weight_per_latent" not in loss:
            yield Change(path, KL_WEIGHT_OF_FORMAT_1, "the default of format 1; later formats weigh per latent number")
        elif not has_kl and loss.get("kl_weight") == KL_WEIGHT_OF_FORMAT_1:
            yield Change(path, None, "the default of format 1; this recipe trains without a KL term")
    diffusion = recipe.get("diffusion")
    if isinstance(diffusion, dict) and "timestep_sampling" not in diffusion:
        because = "the default of format 1; later formats choose by prediction_type"
        yield Change(("diffusion", "timestep_sampling"), "logit_normal", because)
    if not isinstance(diffusion, dict):
        return
    place, encoder = ("diffusion", "text_encoder"), diffusion.get("text_encoder")
    by_captions, from_scratch = diffusion.get("conditioning") == "caption", diffusion.get("from_pretrained") is None
    if not (by_captions or from_scratch):
        return
    if encoder is None:
        yield Change((*place, "type"), "trained", "the default of format 1")
    if encoder is None or (isinstance(encoder, dict) and encoder.get("type") == "trained"):
        if by_captions:
            yield Change((*place, "word_dropout"), 0.0, "format 1 trained no unknown word")
        if from_scratch:
            yield Change((*place, "min_length"), OLD_MIN_LENGTH, "format 1 cut prompts at the longest caption")


Step = Callable[[Any], Iterator[Change]]
_STEPS: dict[int, Step] = {1: _from_1_to_2}
"""The step from each format to the next."""


def _change_node(root: Node, change: Change) -> None:
    node = root
    for key in change.path[:-1]:
        assert isinstance(node.value, dict)
        child = node.value.get(key)
        if child is None or child.value is None:
            child = node.value[key] = Node({}, node.origin)
        node = child
    assert isinstance(node.value, dict)
    if change.value is None:
        del node.value[change.path[-1]]
    else:
        node.value[change.path[-1]] = Node(change.value, node.origin)


def _change_mapping(mapping: Any, change: Change) -> None:
    # What is added goes first: ruamel keeps the comment above the next section with the last key of this one.
    for key in change.path[:-1]:
        if key not in mapping:
            mapping.insert(0, key, CommentedMap())
        elif mapping[key] is None:
            mapping[key] = CommentedMap()
        mapping = mapping[key]
    if change.value is None:
        del mapping[change.path[-1]]
    else:
        mapping.insert(0, change.path[-1], change.value)


def _brief(node: Node) -> str:
    return as_yaml(node.plain())
