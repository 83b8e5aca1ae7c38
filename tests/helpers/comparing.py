"""Comparisons that run here: an engine in this process, a reporter that keeps notes, and what must not change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from steadytune.comparison.engines.engine import RunListener
from steadytune.comparison.engines.execute import execute
from steadytune.comparison.kept_record import kept_record
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import Comparison, RunRecord
from steadytune.comparison.reporter import SilentComparison


class InProcess:
    """An engine that makes the runs here, one after the other, and remembers what it made."""

    def __init__(self) -> None:
        self.made: list[RunPlan] = []

    def run(self, plans: Sequence[RunPlan], watch: RunListener) -> Iterator[RunRecord]:
        for plan in plans:
            if kept_record(plan) is None and plan.key != "probe":
                self.made.append(plan)
            yield execute(plan)

    def close(self) -> None:
        pass


def outcome(comparison: Comparison) -> list[Any]:
    """All that must not depend on how often a comparison was interrupted."""
    return [
        (
            cell.chosen_learning_rate,
            [(r.candidate, r.learning_rate, r.seed, r.status, r.metrics) for r in (*cell.tuning, *cell.runs)],
            [r.training.get("curve") for r in cell.runs],
        )
        for cell in comparison.cells
    ]


class Notes(SilentComparison):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
