"""The protocols of engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord


class RunListener(Protocol):
    """Is told what runs do; `compare` shows it to a person."""

    def started(self, plan: RunPlan) -> None:
        """A run begins, or goes on."""
        ...

    def step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """So many updates of a run are done."""
        ...

    def note(self, plan: RunPlan, text: str) -> None:
        """A run says something."""
        ...

    def warning(self, plan: RunPlan, kind: str, text: str) -> None:
        """A method or a host warns; warnings of one kind say the same of other numbers."""
        ...


class Engine(Protocol):
    """Makes runs: here in worker processes, or on a cluster."""

    def run(self, plans: Sequence[RunPlan], watch: RunListener) -> Iterator[RunRecord]:
        """Make runs and yield the record of each as it ends, in any order; finished ones are only read."""
        ...

    def close(self) -> None:
        """Let go of workers; runs that go on are stopped and continue another time."""
        ...


class BusyError(Exception):
    """Another process is making this run."""
