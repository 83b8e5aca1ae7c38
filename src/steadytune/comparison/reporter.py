"""Receivers of a comparison's progress."""

from __future__ import annotations

from typing import Protocol

from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord


class CompareReporter(Protocol):
    """Shows a comparison to a person."""

    def note(self, text: str) -> None:
        """Show one line."""
        ...

    def begin(self, runs: int, missing: int, seconds: float | None) -> None:
        """Report the number of runs, how many are left, and about how many seconds they take."""
        ...

    def run_started(self, plan: RunPlan) -> None:
        """A run begins."""
        ...

    def run_step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """Report the number of updates done in a run."""
        ...

    def run_ended(self, record: RunRecord, done: int, runs: int, seconds: float | None, leader: str) -> None:
        """A run ended; ``done`` of ``runs`` are, report about how many seconds the others take."""
        ...

    def stop(self) -> None:
        """All runs ended, or the user stopped them."""
        ...


class SilentComparison:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def begin(self, runs: int, missing: int, seconds: float | None) -> None:
        """Show nothing."""

    def run_started(self, plan: RunPlan) -> None:
        """Show nothing."""

    def run_step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """Show nothing."""

    def run_ended(self, record: RunRecord, done: int, runs: int, seconds: float | None, leader: str) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""


class SilentListener:
    """Watches runs of which nobody needs to hear."""

    def started(self, plan: RunPlan) -> None:
        """Show nothing."""

    def step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """Show nothing."""

    def note(self, plan: RunPlan, text: str) -> None:
        """Show nothing."""

    def warning(self, plan: RunPlan, kind: str, text: str) -> None:
        """Show nothing."""
