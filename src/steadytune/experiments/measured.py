"""What `steadytune evaluate` found of a model, as named single numbers that can stand in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def figures_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The main numbers of an ``evaluation.json`` by name; none for what was not measured.

    >>> figures_of({"movement": {"total": {"relative_l1": 0.02, "relative_l2": 0.03}}})
    {'movement L1': 0.02, 'movement L2': 0.03}
    """
    total = evaluation.get("movement", {}).get("total", {})
    found = {"movement L1": total.get("relative_l1"), "movement L2": total.get("relative_l2")}
    for name, entry in evaluation.get("annotators", {}).items():
        for agreement, group in entry.get("groups", {}).items():
            found[f"accuracy {name} {agreement}"] = group.get("accuracy")
            found[f"cross-entropy {name} {agreement}"] = (group.get("five") or {}).get("cross_entropy")
    for radius, entry in evaluation.get("smoothness", {}).items():
        found[f"smoothness {float(radius):g}"] = entry.get("adversarial")
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
