"""What Lightning keeps to itself may change with any release: none of it is replaced."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import vae_ldm.training

FOLDER = Path(vae_ldm.training.__file__).parent


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_class_overrides_a_private_name_of_lightning() -> None:
    classes = [
        found
        for module in pkgutil.iter_modules([str(FOLDER)])
        for _, found in inspect.getmembers(importlib.import_module(f"vae_ldm.training.{module.name}"), inspect.isclass)
        if found.__module__.startswith("vae_ldm.")
    ]
    assert len(classes) > 20
    overridden = [
        f"{each.__qualname__}.{name}"
        for each in classes
        for base in each.__mro__[1:]
        if base.__module__.startswith(("pytorch_lightning", "lightning_fabric"))
        for name in vars(each)
        if _is_private(name) and callable(vars(base).get(name)) and not name.startswith("_abc")
    ]
    assert overridden == []


def test_no_private_attribute_of_another_object_is_assigned() -> None:
    assigned = [
        f"{file.name}:{node.lineno} {ast.unparse(target)}"
        for file in sorted(FOLDER.glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
        and _is_private(target.attr)
        and not (isinstance(target.value, ast.Name) and target.value.id in ("self", "cls"))
    ]
    assert assigned == []
