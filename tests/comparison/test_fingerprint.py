"""What names a run: all code that can change its numbers, and all of its data."""

from __future__ import annotations

import ast
from pathlib import Path

import steadytune
from steadytune.comparison.fingerprint import PARTS

ROOT = Path(steadytune.__file__).parent
#: Modules of a run that change none of its numbers: where it is kept, what it tells, what it measures of itself. The
#: settings are in the key by their values, and the calibration is worked out of kept predictions.
OUTSIDE = {
    *("experiments/folder", "experiments/measure", "experiments/progress", "experiments/predictions"),
    *("experiments/settings", "experiments/remote", "evaluation/calibration"),
    *("experiments/plain_yaml", "experiments/scalars", "experiments/candidate_names", "experiments/settings_of_verbs"),
}


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
    covered = {part.removesuffix(".py") for part in PARTS}
    needed = {name for name in imported_by("experiments/run") if name.split("/")[0] not in covered}
    assert needed - OUTSIDE <= covered
    assert not OUTSIDE & covered
    assert all((ROOT / part).exists() for part in PARTS)
