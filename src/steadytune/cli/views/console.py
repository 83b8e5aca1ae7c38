"""How a run looks in a terminal, in a pipe and in a log."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from steadytune.support.text import counted, duration, printable

if TYPE_CHECKING:
    from steadytune.heads.scores.by_class import ByClass

SHOWN = (
    *("accuracy", "exact_match", "f1", "f1_micro", "matthews", "pearson", "spearman", "mse"),
    *("token_accuracy", "perplexity"),
)
#: Most classes with a table of their own, and most of the classes that a class's rows were taken for.
MOST_CLASSES, MOST_TAKEN = 12, 4
#: Letters of a class's name in a heading.
LONGEST_NAME = 20
#: Seconds and updates after which a line estimates the training time where there is no bar, unless it is short.
TOLD_AFTER, TOLD_UPDATES, SHORT = 10.0, 5, 30.0


class Screen(Console):
    """Where every verb prints: whatever text arrives, no control character and no secret gets to the terminal."""

    def print(self, *objects: Any, **settings: Any) -> None:
        """As in `Console`, strings made harmless before they are laid out."""
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **settings)

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """As in `Console`; what is in tables, bars and panels is made harmless as well."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text.isspace():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


class ConsoleReporter:
    """Shows a progress bar in a terminal and plain lines elsewhere."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._progress: Progress | None = None
        self._task: Any = None
        self._loss: float | None = None
        self._first: tuple[int, float] | None = None
        self._total = 0

    def note(self, text: str) -> None:
        """Show one line."""
        if not self.quiet:
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def start(self, total: int, done: int) -> None:
        """Show the bar, where there is a terminal."""
        if self.quiet:
            return
        if not self.console.is_terminal:
            self._total, self._first = total, (done, time.monotonic())
            return
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=total, completed=done, loss="")
        self._progress.start()

    def step(self, done: int, loss: float | None) -> None:
        """Move the bar."""
        self._loss = loss if loss is not None else self._loss
        self._say_how_long(done)
        if self._progress is not None:
            shown = "" if self._loss is None else f"loss {self._loss:.4f}"
            self._progress.update(self._task, completed=done, loss=shown)

    def epoch(self, number: float, metrics: Mapping[str, float]) -> None:
        """Show one line per evaluation."""
        scores = [f"{name} {metrics[f'eval_{name}']:.4f}" for name in SHOWN if f"eval_{name}" in metrics]
        loss = f"loss {metrics['eval_loss']:.4f}" if "eval_loss" in metrics else ""
        trained = "" if self._loss is None else f"train loss {self._loss:.4f}; "
        self.note(f"epoch {number:g}: {trained}validation {', '.join([loss, *scores[:2]])}")

    def _say_how_long(self, done: int) -> None:
        """Once, where there is no bar: what the first updates tell of the others."""
        if self._first is None:
            return
        before, began = self._first
        passed = time.monotonic() - began
        if passed < TOLD_AFTER or done - before < TOLD_UPDATES:
            return
        self._first = None
        left = passed / (done - before) * (self._total - done)
        if left >= SHORT:
            self.note(f"{done} of {counted(self._total, 'update')} done; about {duration(left)} left")

    def stop(self) -> None:
        """Take the bar away."""
        self._first = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def show_lines(console: Console, text: str) -> None:
    """Show lines as they are; on a terminal long lines wrap with a hanging indent.

    Args:
        console: where to.
        text: of several lines, which may be indented.
    """
    for line in text.splitlines():
        whole = printable(line)
        if console.is_terminal and len(whole) > console.width:
            indent = " " * (len(whole) - len(whole.lstrip()) + 2)
            whole = textwrap.fill(whole, console.width, subsequent_indent=indent, break_on_hyphens=False)
        console.print(whole, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def byte_bar(console: Console, what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show how many bytes are done, with the time left, where there is a terminal; yield what moves the bar."""
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(bar_width=30), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def shortened(name: str) -> str:
    """The name of a class, short enough for a heading.

    >>> shortened("needs work"), shortened("needs a great deal of work")
    ('needs work', 'needs a great deal…')
    """
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip() + "…"


class PlainTable(Table):
    """A table whose title, headings and cells are text and nothing else, wherever they come from.

    Markup such as ``[link=...]`` is shown as it is written, and control characters are escaped.
    """

    def __init__(self, *headings: str, title: str | None = None, **settings: Any) -> None:
        super().__init__(title=None if title is None else as_text(title, "bold"), **settings)
        for heading in headings:
            self.add_column(heading)

    def add_column(self, header: Any = "", *args: Any, **settings: Any) -> None:
        """As in `Table`."""
        super().add_column(as_text(header), *args, **settings)

    def add_row(self, *cells: Any, **settings: Any) -> None:
        """As in `Table`."""
        super().add_row(*(as_text(cell) for cell in cells), **settings)


def as_text(value: Any, style: str = "") -> Any:
    """A string as text without markup or control characters; other things as they are."""
    return Text(printable(value), style=style) if isinstance(value, str) else value


def before_and_after(metrics: Mapping[str, Any]) -> Table:
    """A table of the scores before and after training, one row per split; F1 with the class that it is of."""
    table = PlainTable(header_style="bold")
    splits = metrics["after"]
    main = [metrics["metric"]] if "metric" in metrics else []
    names = [n for n in dict.fromkeys([*main, *SHOWN]) if n in next(iter(splits.values()))][:2]
    table.add_column("split")
    table.add_column("rows", justify="right")
    for name in ("loss", *names):
        of = f" ({shortened(str(metrics['f1_of']))})" if name == "f1" and "f1_of" in metrics else ""
        table.add_column(name + of, justify="right")
    for split, after in splits.items():
        before = metrics["before"].get(split, {})
        cells = [_change(before.get(name), after.get(name)) for name in ("loss", *names)]
        table.add_row(split, f"{after['rows']:,}", *cells)
    return table


def class_table(found: ByClass) -> Table:
    """A table of each class: rows, precision, recall, F1, and its most frequent predictions."""
    table = PlainTable(header_style="bold")
    table.add_column("class", overflow="fold")
    for name in ("rows", "precision", "recall", "f1"):
        table.add_column(name, justify="right")
    table.add_column("predicted as", overflow="fold")
    names = list(found["classes"])
    for (name, scores), counts in zip(found["classes"].items(), found["confusion"], strict=True):
        taken = sorted((pair for pair in zip(counts, names, strict=True) if pair[0]), reverse=True)
        told = ", ".join(f"{shortened(other)} {count:,}" for count, other in taken[:MOST_TAKEN])
        values = [f"{scores[key]:.4f}" for key in ("precision", "recall", "f1")]
        table.add_row(shortened(name), f"{scores['support']:,}", *values, told)
    return table


def transfer_table(found: Mapping[str, Mapping[str, Any]], metric: str) -> Table:
    """A table of cross-lingual transfer, one row per language: the score, and what is lost against English."""
    table = PlainTable(header_style="bold")
    for name in ("language", "split"):
        table.add_column(name)
    for name in (metric, "gap to en"):
        table.add_column(name, justify="right")
    for language, entry in found.items():
        gap = "" if language == "en" else f"{entry['gap']:+.4f}"
        table.add_row(language, str(entry["split"]), f"{entry['score']:.4f}", gap)
    return table


def _change(before: float | None, after: float | None) -> str:
    return " → ".join("-" if value is None else f"{value:.4f}" for value in (before, after))
