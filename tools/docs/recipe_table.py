"""The table of the recipe against a grid, from the records of `benchmarks/recipe.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "recipe.py"


def recipe_table() -> list[str]:
    """One row per data set, and how many runs exist."""
    found = importlib.util.spec_from_file_location("recipe_benchmark", BENCHMARK)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module.table()
