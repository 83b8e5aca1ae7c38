"""The protocol of those who report on a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Shows a run to a person; the command line has one, tests and notebooks may have others."""

    def note(self, text: str) -> None:
        """Show one line."""
        ...

    def start(self, total: int, done: int) -> None:
        """Training begins: ``total`` updates, ``done`` of them in an earlier session."""
        ...

    def step(self, done: int, loss: float | None) -> None:
        """Report the number of updates done, and the loss if it was just measured."""
        ...

    def epoch(self, number: float, metrics: Mapping[str, float]) -> None:
        """An evaluation on the validation split ended."""
        ...

    def stop(self) -> None:
        """Training ended, for whatever reason."""
        ...


class Silent:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def start(self, total: int, done: int) -> None:
        """Show nothing."""

    def step(self, done: int, loss: float | None) -> None:
        """Show nothing."""

    def epoch(self, number: float, metrics: Mapping[str, float]) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""
