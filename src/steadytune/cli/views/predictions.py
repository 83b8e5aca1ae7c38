"""Predictions as a table of 80 columns that is printed while it grows."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from steadytune.prediction.chunks import Chunk
from steadytune.prediction.prediction import Prediction
from steadytune.prediction.session import Work
from steadytune.support.text import duration, number, plain_text

WIDTH = 80
#: Width of the column of predictions: smallest, largest for classes, largest for texts.
_NARROW, _WIDE, _WIDE_TEXT = 9, 24, 34
_PROBABILITY = len("probability")
#: Seconds between two reports of the progress on a terminal, and in a log.
_EVERY, _EVERY_IN_A_LOG = 0.5, 30.0


class PredictionTable:
    """Lines of a table: what is predicted, how probable it is, and the beginning of the text.

    Args:
        work: what is predicted.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._has_probability = work.predicts not in ("number", "tags")
        names = work.model.task.label_names if work.predicts == "class" else None
        widest = max((cell_len(plain_text(name)) for name in names or ()), default=0)
        limit = _WIDE if work.predicts in ("class", "number") else _WIDE_TEXT
        self._width = min(max(widest, _NARROW), _WIDE) if names else limit if limit == _WIDE_TEXT else _NARROW

    def heading(self) -> str:
        """The first line."""
        return self._line("predicted", "probability", self.work.columns.text)

    def lines(self, chunk: Chunk, predictions: Sequence[Prediction]) -> Iterator[str]:
        """The lines of some rows."""
        texts = chunk.column(self.work.columns.text)
        for text, one in zip(texts, predictions, strict=True):
            shown = " ".join(map(str, text)) if isinstance(text, list) else text
            probability = number(one.probability) if isinstance(one.probability, float) else ""
            yield self._line(_as_text(one.label), probability, "" if shown is None else shown)
            if self.work.options.all_probabilities and one.probabilities:
                yield from _each(one)

    def _line(self, label: str, probability: str, text: Any) -> str:
        parts = [_fitted(label, self._width)]
        if self._has_probability:
            parts.append(probability.rjust(_PROBABILITY))
        room = WIDTH - sum(cell_len(part) + 2 for part in parts)
        return "  ".join([*parts, _fitted(str(text), room)]).rstrip()


def _fitted(text: str, width: int) -> str:
    line = plain_text(text[: 4 * width])
    return set_cell_size(line, width) if cell_len(line) <= width else set_cell_size(line, width - 1) + "…"


def _as_text(label: Any) -> str:
    if label is None:
        return ""
    if isinstance(label, float):
        return number(label, 4)
    return " ".join(label) if isinstance(label, tuple) else str(label)


def _each(one: Prediction) -> Iterator[str]:
    """All probabilities of a row, in lines below it."""
    shown = [
        f"{plain_text(name)} {' '.join(map(number, value)) if isinstance(value, tuple) else number(value)}"
        for name, value in one.probabilities.items()
    ]
    yield from textwrap.wrap("   ".join(shown), WIDTH, initial_indent="    ", subsequent_indent="    ")


class ProgressLine:
    """How far a long prediction is, on standard error: one line that changes, or in a log one now and then.

    Args:
        total: rows in all, where it is known.
        quiet: show nothing.
    """

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self.total, self.quiet = total, quiet
        self._live = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()
        self._first = 0
        self._wrote = False

    def __call__(self, done: int) -> None:
        """Report the number of rows done."""
        now = time.monotonic()
        if not self._first:  # the time before was that of loading the model
            self._first, self._began = done, now
        if self.quiet or now - self._shown < (_EVERY if self._live else _EVERY_IN_A_LOG):
            return
        self._shown = now
        speed = (done - self._first) / max(now - self._began, 1e-9)
        of = "" if self.total is None else f" of {self.total:,}"
        left = ""
        if self.total is not None and speed > 0:
            left = f", about {duration((self.total - done) / speed)} left"
        line = f"{done:,}{of} rows, {speed:,.0f} a second{left}"
        print(f"\r{line:<{WIDTH - 1}}" if self._live else line, end="" if self._live else "\n", file=sys.stderr)
        sys.stderr.flush()
        self._wrote = True

    def end(self) -> None:
        """Take the line away."""
        if self._live and self._wrote:
            print(f"\r{'':<{WIDTH - 1}}\r", end="", file=sys.stderr)
