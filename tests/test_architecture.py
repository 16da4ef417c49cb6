"""The map in docs/architecture.md is the tree, and its floors are the import contract's."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> list[list[str]]:
    """The rows of the table below a heading, a list of cells each."""
    text = MAP.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_room_is_on_the_map_and_no_other():
    rooms = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "vae_ldm").rglob("__init__.py")}
    assert {names(row[0])[0] for row in section("Rooms")} == rooms - {"vae_ldm"}


def test_the_floors_are_those_of_the_import_contract():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert contract["containers"] == ["vae_ldm"]
    layers = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    for floor in section("Floors"):
        on_the_map = set(names(floor[1]))
        while on_the_map:  # a floor of the map may be several rows of the contract, the ground is
            assert layers[0] <= on_the_map, (floor, layers[0])
            on_the_map -= layers.pop(0)
    assert layers == []


def test_every_file_that_it_names_exists():
    named = [name for row in section("Where is …?") for name in names(row[1])]
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_list_of_choices_is_written_once():
    """What one can choose among is a Literal; a second copy of it is a place that whoever adds a choice forgets."""
    found: Counter[tuple[str, ...]] = Counter()
    for file in (ROOT / "vae_ldm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                choices = ast.literal_eval(node.slice)
                if isinstance(choices, tuple):
                    found[tuple(sorted(map(str, choices)))] += 1
    assert len(found) > 20
    assert [choices for choices, count in found.items() if count > 1] == []


def test_a_wheel_holds_every_room_and_every_template():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "vae_ldm").rglob("__init__.py")}
    assert set(listed["packages"]) == rooms | {"vae_ldm.recipes"}
    for template in (ROOT / "vae_ldm").rglob("*.jinja"):
        room = ".".join(template.parent.relative_to(ROOT).parts)
        assert any(template.match(pattern) for pattern in listed["package-data"].get(room, [])), template


def test_no_test_file_imports_another():
    """What several tests need lies in a conftest or in tests/support."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    tests = {file.stem for file in files if file.stem.startswith("test_")}
    assert len(tests) > 100
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                origin = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                named = {part for name in (origin, *(alias.name for alias in node.names)) for part in name.split(".")}
                if named & tests:
                    found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_no_two_test_files_have_one_name():
    """The folders of tests are no packages, and pytest imports a file by its name alone."""
    names = [file.name for file in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_two_classes_have_one_name():
    """One word for one idea: whoever searches for a class finds one."""
    classes: dict[str, list[str]] = {}
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(file)
    assert len(classes) > 150
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}


def test_no_two_public_functions_have_one_name():
    """Except a verb and what it calls, and the lesson, which stands by itself and uses the field's words anew."""
    functions: dict[str, list[str]] = {}
    for file, tree in trees():
        if not file.startswith(("vae_ldm/cli/", "vae_ldm/lesson/")):
            for node in tree.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    functions.setdefault(node.name, []).append(file)
    assert len(functions) > 300
    assert {name: files for name, files in functions.items() if len(files) > 1} == {}


@pytest.mark.slow
def test_pytest_collects_the_tests_without_the_checkout_on_its_path():
    """`pytest` alone puts no folder on the path, where `python -m pytest` puts the current one."""
    command = [sys.executable, "-I", "-m", "pytest", "--collect-only", "-qq", "-n", "0", "tests/test_floors.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def trees() -> list[tuple[str, ast.Module]]:
    files = sorted((ROOT / "vae_ldm").rglob("*.py"))
    return [(str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))) for file in files]
