"""Arrows point one way: cli -> experiments -> hosts, models, tasks, evaluation -> methods -> core."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "steadytune"
#: What each layer may import of ours.
ALLOWED = {
    "core": {"core"},
    "methods": {"methods", "core"},
    "tasks": {"tasks", "core"},
    "hosts": {"hosts", "methods", "core"},
    "models": {"models", "core"},
    "evaluation": {"evaluation", "tasks", "methods", "core"},
    "contract": {"contract", "hosts", "methods", "core"},
    "experiments": {"experiments", "evaluation", "models", "hosts", "tasks", "methods", "core", "__version__"},
    "cli": {"cli", "experiments", "evaluation", "models", "hosts", "tasks", "methods", "core", "__version__"},
}
FILES = [path for layer in ALLOWED for path in sorted((SOURCE / layer).glob("*.py"))]


def imported_layers(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "steadytune":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("steadytune."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("steadytune.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_layer_imports_only_what_lies_below(path: Path) -> None:
    assert imported_layers(ast.parse(path.read_text(encoding="utf-8"))) <= ALLOWED[path.parent.name]


def test_every_folder_is_a_layer() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 75, node.name
