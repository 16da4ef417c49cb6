import math
import os
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from vae_ldm.errors import RecipeError
from vae_ldm.recipe import read_recipe
from vae_ldm.recipe.document import as_yaml, dotted, parse_text, read_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.e-4", 1e-4),
        ("5e3", 5000.0),
        ("+1E5", 1e5),
        (".5", 0.5),
        ("-.5e2", -50.0),
        ("7", 7),
        ("-7", -7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        # In YAML 1.1 these are something else than text.
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0b11", "0b11"),
        ("1e", "1e"),
        ("=", "="),
        ("tRue", "tRue"),
        ("0o8", "0o8"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    read = read_scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_a_number_of_thousands_of_digits_is_no_crash():
    assert read_scalar("9" * 5000) == math.inf
    assert isinstance(read_scalar("0x" + "f" * 5000), str)
    assert math.isnan(read_scalar(".nan"))


def test_quoted_scalars_are_text():
    root, mistakes = parse_text("a: \"1\"\nb: 'true'\nc: ''\nd: |-\n  5\n", "f")
    assert root.plain() == {"a": "1", "b": "true", "c": "", "d": "5"}
    assert mistakes == []


def test_a_tree_is_what_ruamel_reads_where_the_schemas_agree():
    text = "a: {b: [1, 2.5, x, [y]], c: }\nd:\n- e: true\n  f: |\n    two\n    lines\n- 'g'\n"
    assert parse_text(text, "f")[0].plain() == YAML(typ="safe", pure=True).load(text)


def test_every_node_knows_the_line_of_its_key():
    root, _ = parse_text("a:\n  b:\n    - 1\n    - 2\n  c: {d:\n 5}\n", "f.yaml")
    assert root.find(("a",)).origin.label == "f.yaml:1"
    assert root.find(("a", "b")).origin.label == "f.yaml:2"
    assert root.find(("a", "b", 1)).origin.label == "f.yaml:4"
    assert root.find(("a", "c", "d")).origin.label == "f.yaml:5"
    assert root.find(("a", "x")) is None
    assert root.find(("a", "b", 2)) is None
    assert root.nearest(("a", "b", "x", "y")).origin.label == "f.yaml:2"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nname: b\n", "r.yaml:2: name: given twice; first at r.yaml:1"),
        ("data:\n  path: a\n  path: b\n", "r.yaml:3: data.path: given twice; first at r.yaml:2"),
        ("a: {b: 1, b: 2}\n", "r.yaml:1: a.b: given twice; first at r.yaml:1"),
        ("a: &x 1\n", "r.yaml:1: a: anchors and aliases (&name, *name) are not allowed; write the value out"),
        ("a: &x 1\nb: *x\n", "r.yaml:2: b: anchors and aliases (&name, *name) are not allowed; write the value out"),
        ("a: &x 1\n*x : 2\n", "r.yaml:2: anchors and aliases (&name, *name) are not allowed; write the value out"),
        ("a:\n  <<: {b: 1}\n", "r.yaml:2: a: merge keys (<<) are not allowed; write the keys out"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "r.yaml:1: a: tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed; "
            "write the plain value",
        ),
        ("name: !!str 5\n", "r.yaml:1: name: tags (tag:yaml.org,2002:str) are not allowed; write the plain value"),
        ("a: !env HOME\n", "r.yaml:1: a: tags (!env) are not allowed; write the plain value"),
        ("? [a, b]\n: 1\n", "r.yaml:1: a key must be a word"),
        ("name: a\n---\nname: b\n", "r.yaml:3: a second document begins here; a recipe is one document"),
    ],
)
def test_what_could_mislead_a_reader_is_refused(mistakes, text, line):
    assert line in mistakes(text)


def test_all_of_it_at_once(mistakes):
    assert mistakes("name: a\nname: b\ndata: &x 5\nautoencoder: *x\nfoo: 1\n") == [
        "r.yaml:2: name: given twice; first at r.yaml:1",
        "r.yaml:3: data: anchors and aliases (&name, *name) are not allowed; write the value out",
        "r.yaml:3: data: needs a mapping, not 5",
        "r.yaml:4: autoencoder: anchors and aliases (&name, *name) are not allowed; write the value out",
        "r.yaml:5: foo: unknown key; "
        "legal: format, name, seed, output_dir, data, autoencoder, diffusion, evaluation, hub, loggers",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2\n", "r.yaml:2: not YAML: expected ',' or ']', but got ':'"),
        ("name: a\nb: c: d\n", "r.yaml:2: not YAML: mapping values are not allowed here"),
        ("a: 'x\n", "r.yaml:2: not YAML: found unexpected end of stream"),
        ("\tname: a\n", r"r.yaml:1: not YAML: found character '\t' that cannot start any token"),
        ("", "r.yaml: is empty; a recipe needs at least name, data and autoencoder"),
        ("# only a comment\n", "r.yaml: is empty; a recipe needs at least name, data and autoencoder"),
        ("- 1\n- 2\n", "r.yaml:1: a recipe is a mapping (key: value), not [1, 2]"),
        ("# c\njust text\n", "r.yaml:2: a recipe is a mapping (key: value), not 'just text'"),
        (b"name: a\nx: \xff\n", "r.yaml:2: not UTF-8 text (byte 0xff)"),
        ("name: a\n".encode("utf-16"), "r.yaml:1: not UTF-8 text (byte 0xff)"),
        ("#" * 200_000, "r.yaml: is larger than 128 KiB, so it is not a recipe"),
        ("[" * 5000, "r.yaml:1: not YAML: nested deeper than 32 levels"),
        ("{a: " * 5000, "r.yaml:1: not YAML: nested deeper than 32 levels"),
        ("a: *x\n", "r.yaml:1: a: anchors"),
    ],
)
def test_what_is_no_recipe_is_refused_with_a_line(mistakes, text, line):
    lines = mistakes(text)
    assert lines[0].startswith(line)


def test_control_characters(mistakes):
    (line,) = mistakes("name: a\nb: \x01\n")
    assert line.startswith("r.yaml: not YAML: ")


def test_a_bomb_of_aliases_is_refused_at_once(mistakes):
    layers = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    start = time.process_time()
    lines = mistakes("\n".join(layers))
    assert any("anchors and aliases" in line for line in lines)
    assert time.process_time() - start < 5


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(write):
    assert (
        read_recipe(write(b"\xef\xbb\xbfname: a\r\ndata: {type: rendered_claims}\r\nautoencoder: {}\r\n")).name == "a"
    )


def test_no_file_folder_or_permission(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = {tmp_path.relative_to(tmp_path): "is a folder; name the YAML file in it"}
    missing = (tmp_path / "missing.yaml").relative_to(tmp_path)
    cases[missing] = "no such file"
    below_a_file = tmp_path / "f" / "r.yaml"
    below_a_file.parent.write_text("x")
    cases[below_a_file] = "cannot be read: Not a directory"
    if os.geteuid() != 0:
        closed = tmp_path / "closed.yaml"
        closed.write_text("name: a")
        closed.chmod(0)
        cases[closed] = "cannot be read: Permission denied"
    for path, message in cases.items():
        with pytest.raises(RecipeError) as caught:
            read_recipe(path)
        assert str(caught.value) == f"{path}: {message}"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_an_endless_file_is_not_read_to_its_end():
    with pytest.raises(RecipeError, match="larger than 128 KiB"):
        read_recipe(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("x", "'x'"),
        ({"a": 1}, "a mapping"),
        ({}, "an empty mapping"),
        ([1, "a", None], "[1, 'a', null]"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        ("y" * 100, f"'{'y' * 49}...'"),
    ],
)
def test_values_are_shown_as_yaml_and_short(value, text):
    assert as_yaml(value) == text


def test_dotted():
    assert dotted(("a", "b", 1, "c")) == "a.b[1].c"


@pytest.mark.parametrize("text", ["{" * 1200, "? " * 1000, "name: " + "{" * 40, "[" * 1200, "? {" * 1000, "- " * 1000])
def test_nesting_has_a_bound_whatever_is_nested(mistakes, text):
    assert mistakes(text) == ["r.yaml:1: not YAML: nested deeper than 32 levels"]


def test_an_escape_that_names_no_character_has_a_line(mistakes):
    assert mistakes('name: a\nseed: "\\U00110000"\n') == ["r.yaml:2: not YAML: an escape that names no character"]
    half = "seed: holds half of a character (\\uD800 to \\uDFFF); write the whole one"
    assert f"r.yaml:2: {half}" in mistakes('name: a\nseed: "\\uD83D"\n')


def test_thousands_of_mistakes_are_fifty_lines_and_soon_told(mistakes):
    text = "name: a\ndata: {type: rendered_claims}\nautoencoder: {"
    start = time.process_time()
    lines = mistakes(text + ", ".join(f"k{number}: 1" for number in range(9000)) + "}\n")
    assert time.process_time() - start < 10  # 0.6 s, 2.1 s where lines are counted; it was 17 s
    assert len(lines) == 51
    assert lines[0].startswith("r.yaml:3: autoencoder.k0: unknown key; legal: from_pretrained,")
    assert lines[-1] == "... and 8,950 mistakes more"


def test_no_line_holds_what_a_terminal_would_obey(mistakes):
    (line,) = mistakes('name: a\ndata: {type: rendered_claims}\nautoencoder: {}\n"\\e[31m\\u202E": 1\n')
    assert line.startswith("r.yaml:4: \\x1b[31m\\u202e: unknown key")
