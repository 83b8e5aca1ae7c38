"""The map of the code, from the first line of every module: docs/code-map.md."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "steadytune"
#: Above first: each folder imports only from those below it.
FOLDERS = {
    "cli": "the verbs of the command line",
    "experiments": "one run in one folder, comparisons, statistics, reports",
    "evaluation": "what a trained model is worth",
    "contract": "the properties that every method is checked for",
    "hosts": "where training loops call the stack",
    "models": "networks of ours",
    "tasks": "what is learned: named tasks, the user's files, scores",
    "methods": "one file and one card for each method",
    "core": "how methods meet one training step",
}
BESIDE = {
    "tests": "`test_*.py` by subject; `references/` has the slow transcriptions, `gpu/` what needs a GPU",
    "docs": "these pages; `generate.py` writes what follows from the code",
    "examples": "one script for each training loop; each runs in a test",
    "benchmarks": "what was measured, and `results/` with machine, versions and commit",
}


def code_map() -> str:
    """The whole page."""
    lines = [
        "# Map of the code",
        "",
        "Written by `docs/generate.py` from the first line of every module; a test compares. A folder imports only",
        "from those below it, which `tests/test_architecture.py` checks; `contract` serves others' tests, too.",
        "",
    ]
    for folder, what in FOLDERS.items():
        lines += [f"## {folder}/: {what}", "", "| module | |", "|---|---|"]
        modules = sorted((SOURCE / folder).glob("*.py"))
        lines += [f"| `{path.name}` | {first_line(path)} |" for path in modules if path.stem != "__init__"]
        lines.append("")
    lines += ["## Beside the package", "", "| folder | |", "|---|---|"]
    lines += [f"| `{name}/` | {what} |" for name, what in BESIDE.items()]
    return "\n".join([*lines, ""])


def first_line(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|").replace("<", "&lt;")
