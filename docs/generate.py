"""Writes docs/compatibility.md from the facts on the methods' classes; `make docs` runs it, a test compares."""

from __future__ import annotations

import itertools
from pathlib import Path

from steadytune.contract import PROPERTIES
from steadytune.core.composition import conflict, total_cost
from steadytune.core.cost import PLAIN_STEP
from steadytune.methods.registry import REGISTRY, method_classes

PAGE = Path(__file__).parent / "compatibility.md"


def methods_table() -> list[str]:
    """One row per name: role, cost, memory, source."""
    lines = ["| name | role | a step | copies | sets | source |", "|---|---|---|---|---|---|"]
    for entry in REGISTRY.values():
        parts = entry.methods()
        total = total_cost(parts)
        roles = " + ".join(dict.fromkeys(m.role for m in parts))
        papers = "; ".join(dict.fromkeys(m.paper for m in parts))
        relative = f"{total.units / PLAIN_STEP.units:.2f} x"
        card = f"methods/{parts[0].name}.md" if len(parts) == 1 else f"methods/{entry.name.split('.')[0]}.md"
        if entry.name == "r4f":
            card = "methods/r3f.md"
        lines.append(
            f"| [`{entry.name}`]({card}) | {roles} | {relative} | {total.weight_copies} | {total.activation_sets} "
            f"| {papers} |"
        )
    return lines


def refused_pairs() -> list[str]:
    """Every pair that a stack refuses, with the reason."""
    methods = [m() for m in method_classes() if m.name in REGISTRY]
    pairs = itertools.combinations(methods, 2)
    return [f"- {reason}" for a, b in pairs if (reason := conflict(a, b)) is not None]


def exceptions() -> list[str]:
    """What of the contract does not apply to whom, with the reason."""
    lines = ["| method | property | why it does not apply |", "|---|---|---|"]
    for method in method_classes():
        if method.name in REGISTRY:
            lines += [f"| `{method.name}` | {name} | {reason} |" for name, reason in method.not_applicable.items()]
    return lines


def page() -> str:
    """The whole page."""
    count = len([m for m in method_classes() if m.name in REGISTRY])
    return "\n".join(
        [
            "# Methods, costs, and what goes together",
            "",
            "Generated from the facts on the classes by `docs/generate.py`; the figures are counted in the tests.",
            "",
            "*A step* is its arithmetic relative to a plain one (a forward pass 1, a backward pass to the weights 2,",
            "to the embeddings alone 1; plain is 3). *Copies* are extra copies of the trainable weights, *sets* extra",
            "sets of activations alive at the same time.",
            "",
            *methods_table(),
            "",
            "## What is refused",
            "",
            f"Of the {count * (count - 1) // 2} pairs of {count} methods these are refused when a stack is built; "
            "every other pair is trained in a test.",
            "",
            *refused_pairs(),
            "",
            "## The contract",
            "",
            "Every method is checked for every property, except where the last table says why it cannot apply.",
            "",
            "| property | what holds |",
            "|---|---|",
            *(f"| {p.name} | {p.statement} |" for p in PROPERTIES.values()),
            "",
            *exceptions(),
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
