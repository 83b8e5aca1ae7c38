"""The table in docs/methods/suites.md: what each suite runs at each of its scales."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SUITES = Path(__file__).parents[2] / "suites"


def suite_table() -> list[str]:
    """A line for every suite and scale, in the order of the files."""
    lines = ["| suite | scale | model | tasks | training rows | candidates | seeds |", "|---|---|---|---|---|---|---|"]
    for file in sorted(SUITES.glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        scales = content.pop("scales", {})
        lines += [
            _line(file.stem, scale, {**content, **changed})
            for scale, changed in {"": {}, **{name: own or {} for name, own in scales.items()}}.items()
        ]
    return lines


def _line(suite: str, scale: str, settings: Mapping[str, Any]) -> str:
    sizes = ", ".join(map(str, settings.get("train_sizes") or ("all",)))
    candidates = settings.get("methods", ())
    count = len(candidates) if isinstance(candidates, list) else 1
    cells = (
        f"`{suite}`" if not scale else "",
        f"`{scale}`" if scale else "",
        settings["model"],
        ", ".join(settings["tasks"]),
        sizes,
        str(count),
        str(settings.get("seeds", 1)),
    )
    return f"| {' | '.join(cells)} |"
