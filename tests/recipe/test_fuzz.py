"""Mutated recipes: each is a recipe in order or a RecipeError of short lines, soon, and never anything else."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from vae_ldm.errors import RecipeError
from vae_ldm.recipe import dump_recipe, packaged_recipes, read_recipe

NUM_MUTATIONS = 20
"""Of each packaged recipe, as a text and by an override each."""
SLOWEST_SECONDS = 10.0
"""Of CPU, for one recipe: what grows with the square of a text's length took 17.

The slowest here takes 0.3, and 1.3 where lines are counted: 1,500 brackets on one line, which ruamel.yaml reads a
character at a time.
"""

SCALARS = (
    *("", "~", "null", "true", "no", "0", "-1", "1", "1e400", "-1e400", ".nan", ".inf", "1e-400", "0x" + "f" * 90),
    *("9" * 300, "9" * 5000, "-" + "9" * 30, "2.0", "010", "0o17", "1_000", "12:30", "2024-01-01", "'7'", '"1e-3"'),
    *('"\\0"', '"\\uD800"', '"\\UFFFFFFFF"', '"\\U0001F600"', '"\\x85\\u2028\\u2029"', '"\\e[31m"', "é", "照片", "😀"),
    *("[]", "{}", "[[]]", "[1, [2, {a: 3}]]", "{type: l1}", "{type: [l1]}", "{type: {a: b}}", "{type: 1}", "[null]"),
    *("&x 1", "*x", "!!python/name:os.system x", "!x 1", "<<", "{<<: {a: 1}}", "? a", "- a", "a: b", "@x", "%x", "`x`"),
    *("|\n  a", ">\n  a", "'", '"', "[", "{", "]", "}", "x" * 3000, "{" * 40, "[" * 40, "../" * 20, "/dev/zero", "\t"),
)
KEYS = (
    "type",
    "x",
    "<<",
    "1",
    "null",
    "~",
    "é",
    '"a\\nb"',
    "? [a]",
    "[a]",
    "{a: 1}",
    "a" * 2000,
    "kl_weight",
    "format",
)


def replace_a_value(lines: list[str], dice: random.Random) -> None:
    number = _a_line_with_a_value(lines, dice)
    lines[number] = f"{lines[number].partition(': ')[0]}: {dice.choice(SCALARS)}"


def rename_a_key(lines: list[str], dice: random.Random) -> None:
    number = _a_line_with_a_value(lines, dice)
    key, _, value = lines[number].partition(": ")
    indent = key[: len(key) - len(key.lstrip())]
    lines[number] = f"{indent}{dice.choice(KEYS)}: {value}"


def leave_out_a_line(lines: list[str], dice: random.Random) -> None:
    del lines[dice.randrange(len(lines))]


def repeat_a_line(lines: list[str], dice: random.Random) -> None:
    lines.insert(dice.randrange(len(lines)), dice.choice(lines))


def indent_a_line(lines: list[str], dice: random.Random) -> None:
    number = dice.randrange(len(lines))
    lines[number] = " " * dice.randrange(1, 5) + lines[number].lstrip(" " * dice.randrange(3))


def nest_a_value(lines: list[str], dice: random.Random) -> None:
    number, depth = _a_line_with_a_value(lines, dice), dice.choice([1, 5, 31, 40, 1500])
    key, _, value = lines[number].partition(": ")
    begin, end = dice.choice([("[", "]"), ("{a: ", "}"), ("{? {", "} : 1}"), ("{", "}")])
    lines[number] = f"{key}: {begin * depth}{value}{end * depth}"


def exchange_characters(lines: list[str], dice: random.Random) -> None:
    number = dice.randrange(len(lines))
    text = list(lines[number])
    for _ in range(min(3, len(text))):
        text[dice.randrange(len(text))] = dice.choice(":-{}[]#&*!|>'\"\\%@`, \t\x07\x85\u2028\ufeff\xa0é0e")
    lines[number] = "".join(text)


def add_many_keys(lines: list[str], dice: random.Random) -> None:
    lines.insert(dice.randrange(len(lines)), "\n".join(f"k{number}: 1" for number in range(dice.choice([3, 300]))))


MUTATIONS: tuple[Callable[[list[str], random.Random], None], ...] = (
    *(replace_a_value, replace_a_value, replace_a_value, rename_a_key, leave_out_a_line, repeat_a_line),
    *(indent_a_line, nest_a_value, exchange_characters, add_many_keys),
)


def _a_line_with_a_value(lines: list[str], dice: random.Random) -> int:
    return dice.choice([number for number, line in enumerate(lines) if ": " in line] or [0])


def _is_recipe_or_lines(path: Any, overrides: list[str], case: str) -> bool:
    start = time.process_time()
    try:
        text = dump_recipe(read_recipe(path, overrides))
    except RecipeError as error:
        lines = str(error).splitlines()
        assert lines, case
        assert len(lines) <= 51, case
        assert max(map(len, lines)) < 2000, case
        assert all(line.isprintable() for line in lines), case
        in_order = False
    else:
        text.encode()
        in_order = True
    assert time.process_time() - start < SLOWEST_SECONDS, case
    return in_order


@pytest.mark.parametrize("name", packaged_recipes())
def test_a_mutated_recipe_is_a_recipe_or_a_few_lines(write, name):
    dice = random.Random(name)
    lines = [line for line in packaged_recipes()[name].read_text().splitlines() if not line.startswith("#")]
    assert _is_recipe_or_lines(write("\n".join(lines)), [], name)
    refused = 0
    for _ in range(NUM_MUTATIONS):
        mutated = list(lines)
        for _ in range(dice.choice([1, 1, 2, 4])):
            dice.choice(MUTATIONS)(mutated, dice)
            mutated = mutated or [""]
        text = "\n".join(mutated)
        refused += not _is_recipe_or_lines(write(text.encode("utf-8", "surrogatepass")), [], text)
    assert refused


@pytest.mark.parametrize("name", packaged_recipes())
def test_an_odd_override_is_a_recipe_or_a_few_lines(write, name):
    dice = random.Random(f"{name} overridden")
    text = packaged_recipes()[name].read_text()
    keys = [
        "seed",
        "name",
        "output_dir",
        "data",
        "data.path",
        "autoencoder.loss",
        "diffusion",
        "loggers",
        "hub",
        "format",
    ]
    keys += ["loggers", "autoencoder.optimizer.betas", "diffusion.text_encoder.type", "a.b.c", "data.image_size"]
    path = write(text)
    for _ in range(NUM_MUTATIONS):
        override = f"{dice.choice(keys)}={dice.choice(SCALARS)}"
        _is_recipe_or_lines(path, [override], override)
