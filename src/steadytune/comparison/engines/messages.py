"""A reporter that sends what a run tells to wherever the comparison listens."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class MessageReporter(ABC):
    """Sends a run's progress as messages; how a message travels is the subclass's.

    Args:
        pace: seconds between two messages on the updates of a run.
    """

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._total = 0
        self._last = 0.0
        self._loss: float | None = None

    @abstractmethod
    def send(self, event: str, **content: Any) -> None:
        """Send one message."""

    def note(self, text: str) -> None:
        """Send a note."""
        self.send("note", text=text)

    @contextmanager
    def warnings_sent(self) -> Iterator[None]:
        """Send what methods and hosts warn of meanwhile, which goes to the log too."""
        handler = _Sending(self)
        logger = logging.getLogger("steadytune")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def start(self, total: int, done: int) -> None:
        """Send the number of updates."""
        self._total, self._loss = total, None
        self.send("step", done=done, total=total, loss=None)

    def step(self, done: int, loss: float | None) -> None:
        """Send where the run is, now and then."""
        self._loss = loss if loss is not None else self._loss
        now = time.monotonic()
        if now - self._last >= self._pace or done == self._total:
            self._last = now
            self.send("step", done=done, total=self._total, loss=self._loss)

    def epoch(self, number: float, metrics: Mapping[str, float]) -> None:  # noqa: B027 - every reporter has it
        """Send nothing: the record has it."""

    def stop(self) -> None:  # noqa: B027 - every reporter has it
        """Send nothing."""


class _Sending(logging.Handler):
    """Sends a warning with what it was made from, by which those that differ in numbers alone are the same."""

    def __init__(self, teller: MessageReporter) -> None:
        super().__init__(logging.WARNING)
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self._teller.send("warning", kind=str(record.msg), text=record.getMessage())
