"""What names a run: all code that can change its numbers, and all of its data."""

from __future__ import annotations

import ast
from pathlib import Path

import steadytune
from steadytune.comparison.fingerprint import PARTS

ROOT = Path(steadytune.__file__).parent
#: Packages that change none of a run's numbers: settings are in the key by their values, support knows no training.
OUTSIDE = {"settings", "support", "errors", "names", "version", "evaluation"}


def imported_by(module: str) -> set[str]:
    """All our modules that a module imports, at any depth, as paths without the suffix."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        path = ROOT / f"{name}.py"
        path = path if path.is_file() else ROOT / name / "__init__.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steadytune."):
                waiting.append(str(node.module).removeprefix("steadytune.").replace(".", "/"))
    return found


def test_all_code_that_takes_part_in_a_run_is_in_its_key() -> None:
    needed = {name.split("/")[0] for name in imported_by("training/run")}
    assert needed - OUTSIDE <= set(PARTS)
    assert not OUTSIDE & set(PARTS)
    assert all((ROOT / part).is_dir() for part in PARTS)
