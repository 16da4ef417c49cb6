"""The floors of the house: an import goes down, never sideways, never up."""

from importlinter.cli import lint_imports


def test_import_contracts_hold(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    assert lint_imports(no_cache=True) == 0
