"""How much of a large comparison is drawn: the tables hold everything, the plots what a person can still look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from steadytune.reporting.curves import CurveView
from steadytune.reporting.views import CellView, MethodView

#: Methods in a plot, beside plain training.
METHODS = 8
#: Seeds that a plot shows one by one.
SEEDS = 20
#: In a report of more runs than the first number, at most the second number of tasks and sizes have plots.
EXTENTS = ((5000, 1), (1000, 2))

Value = TypeVar("Value")


def most_telling(methods: Sequence[MethodView], most: int = METHODS) -> tuple[MethodView, ...]:
    """Plain training and, of more methods than ``most``, the largest gains and losses and what is beyond chance.

    All that is beyond chance is drawn, up to twice as many.
    """
    plain, others = methods[:1], methods[1:]
    if len(others) > most:
        found = [m for m in others if m.statistics.finding in ("better", "worse")][: 2 * most]
        rest = sorted((m for m in others if m.gain is not None), key=lambda m: m.gain.mean if m.gain else 0.0)
        both_ends = [m for pair in zip(reversed(rest), rest, strict=True) for m in pair]
        kept = {id(m) for m in found}
        for method in both_ends:
            if len(kept) < most:
                kept.add(id(method))
        others = [method for method in others if id(method) in kept]
    return (*plain, *others)


def cells_with_plots(cells: Sequence[CellView]) -> int:
    """Return how many tasks and training sizes have plots: all, unless the comparison is large."""
    runs = sum(len(view.cell.runs) for view in cells)
    return min(len(cells), next((count for large, count in EXTENTS if runs > large), len(cells)))


def some(by_seed: Mapping[int, Value], most: int = SEEDS) -> dict[int, Value]:
    """Return at most ``most`` seeds, evenly spread.

    >>> some({1: "a", 2: "b", 3: "c", 4: "d"}, 2)
    {1: 'a', 3: 'c'}
    """
    if len(by_seed) <= most:
        return dict(by_seed)
    seeds = sorted(by_seed)
    return {seed: by_seed[seed] for seed in (seeds[i * len(seeds) // most] for i in range(most))}


def fewer_lines(view: CurveView, drawn: Sequence[MethodView]) -> CurveView:
    """The lines of plain training, whatever its length, and of the methods that are drawn."""
    labels = {method.label for method in drawn}
    return replace(view, lines=tuple(line for line in view.lines if line.slot == 0 or line.label in labels))


def left_out(methods: Sequence[MethodView], drawn: Sequence[MethodView]) -> str:
    """A sentence for a caption, empty where everything is drawn."""
    seeds = max((len(method.scores) for method in methods), default=0)
    parts = []
    if len(drawn) < len(methods):
        parts.append(
            f"Drawn are {len(drawn) - 1} of {len(methods) - 1} methods: the largest gains, the largest losses, and "
            "what is beyond chance."
        )
    if seeds > SEEDS:
        parts.append(f"Of {seeds:,} seeds {SEEDS} are drawn one by one.")
    return " ".join(parts)
