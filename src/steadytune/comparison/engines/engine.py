"""The protocols of engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord


class RunListener(Protocol):
    """Receives the progress of runs, which `compare` shows to the user."""

    def started(self, plan: RunPlan) -> None:
        """A run starts or resumes."""
        ...

    def step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """Report the number of updates done in a run."""
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
        """Release the workers; runs in progress stop and can be resumed."""
        ...


class BusyError(Exception):
    """Another process is making this run."""
