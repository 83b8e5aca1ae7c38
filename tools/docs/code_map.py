"""The map of the code, from the first line of every module: docs/project/code-map.md."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "steadytune"
#: Above first: each folder imports only from those below it.
FOLDERS = {
    "cli": "the verbs of the command line",
    "reporting": "a comparison as a page, Markdown, CSV, JSON and a model card",
    "prediction": "from rows without labels to predictions",
    "comparison": "many runs, and what they say about methods",
    "proposal": "what `init` proposes",
    "evaluation": "what a trained model is worth",
    "training": "one run in one folder",
    "models": "models: where they come from, new heads, networks of ours",
    "settings": "the settings of each verb",
    "heads": "what a model predicts, one file a head: from rows to features, from outputs to scores",
    "testing": "the properties that every method is checked for",
    "integrations": "training loops that call the stack",
    "methods": "one file and one card for each method",
    "tasks": "rows: named tasks and the user's files",
    "core": "how methods meet one training step",
    "support": "what knows nothing of training: text, files, YAML, the Hub",
}
BESIDE = {
    "tests": "the folders of the source; `methods/parity/references/` has slow transcriptions",
    "docs": "these pages",
    "tools": "scripts for this repository: `docs/generate.py` writes what follows from the code",
    "examples": "one script for each training loop; each runs in a test",
    "benchmarks": "what was measured, and `results/` with machine, versions and commit",
}


def code_map() -> str:
    """The whole page."""
    lines = [
        "# Map of the code",
        "",
        "Written by `tools/docs/generate.py` from the first line of every module; a test compares. A folder imports",
        "only from those below it: `tests/test_architecture.py` has the table. `testing` serves others' tests, too.",
        "",
    ]
    for folder, what in FOLDERS.items():
        lines += [f"## {folder}/: {what}", "", "| module | |", "|---|---|"]
        modules = sorted((SOURCE / folder).rglob("*.py"), key=lambda path: (len(path.parts), path))
        lines += [
            f"| `{path.relative_to(SOURCE / folder)}` | {first_line(path)} |"
            for path in modules
            if path.stem != "__init__"
        ]
        lines.append("")
    lines += ["## Beside the package", "", "| folder | |", "|---|---|"]
    lines += [f"| `{name}/` | {what} |" for name, what in BESIDE.items()]
    return "\n".join([*lines, ""])


def first_line(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|").replace("<", "&lt;")
