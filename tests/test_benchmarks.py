"""Every cell of benchmarks/quality_per_minute.py is a recipe in order, and its table can be printed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def quality():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import quality_per_minute

        yield quality_per_minute
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_every_cell_is_a_recipe(quality, tmp_path):
    bench = quality.Bench(tmp_path, tmp_path / "photos")
    names = set()
    for stage, variants in quality.VARIANTS.items():
        for pack in quality.PACKS:
            for name, variant in variants.items():
                if (stage == "starter") != (pack == "starter"):
                    continue
                cell = quality.Cell(stage, pack, variant, 3, 60.0)
                recipe = bench.recipe(cell, "cell", [])
                assert (recipe.seed, recipe.name) == (3, "cell")
                with variant.in_place():
                    pass
                names.add((stage, name))
    assert len(names) > 30


def test_the_committed_cells_are_of_variants_that_are_there_and_make_a_table(quality, capsys):
    rows = quality.read_table()
    assert rows
    for row in rows:
        assert row["variant"] in quality.VARIANTS[row["stage"]]
        assert row["pack"] in quality.PACKS
    quality.table(SimpleNamespace())
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("### ") for line in lines) >= 1
    assert len([line for line in lines if line.startswith("| ")]) > 2
