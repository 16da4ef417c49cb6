"""Nothing of a repository is executed: every call that could do so says trust_remote_code=False itself."""

import ast
from pathlib import Path

import vae_ldm

# transformers' Auto classes ask on a terminal where it is left out; diffusers' pipelines load components of others.
ASKS = ("Auto", "DiffusionPipeline", "LatentDiffusionPipeline")


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Calls of a class's `from_pretrained`, by the name of the class."""
    return [
        (node.func.value.id, node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id.startswith(ASKS)
        and not node.func.value.id.startswith("Autoencoder")
    ]


def refuses(call: ast.Call) -> bool:
    return any(
        keyword.arg == "trust_remote_code" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        for keyword in call.keywords
    )


def test_every_call_that_could_run_code_of_a_repository_refuses_to():
    found = [
        (f"{file.name}:{call.lineno} {name}", call)
        for file in sorted(Path(vae_ldm.__file__).parent.rglob("*.py"))
        for name, call in calls(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert len(found) >= 5
    assert [where for where, call in found if not refuses(call)] == []


def test_a_call_that_leaves_it_out_is_found():
    assert [refuses(call) for _, call in calls(ast.parse("AutoModel.from_pretrained(x)"))] == [False]
    assert [refuses(call) for _, call in calls(ast.parse("AutoModel.from_pretrained(x, trust_remote_code=y)"))] == [
        False
    ]
