"""How a comparison looks in a terminal, in a pipe and in a log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from steadytune.comparison.statistics.cells import CellStatistics, compare_cell
from steadytune.comparison.statistics.paired_tests import Paired
from steadytune.comparison.statistics.trust import trust
from steadytune.comparison.statistics.verdict import verdict
from steadytune.reporting.columns import columns
from steadytune.reporting.words import label, size
from steadytune.support.text import chance, duration, interval_or_dash, printable, rate, signed

if TYPE_CHECKING:
    from steadytune.comparison.plan import RunPlan
    from steadytune.comparison.records import Comparison, RunRecord


#: Columns of a bar: on a terminal of 80 the names of most candidates have room beside it.
BAR = 16


class _Bars(Progress):
    """Bars with a line below them, which takes no room from the bars."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars, and the line if there is one."""
        yield self.make_tasks_table(self.tasks)
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")


class ComparisonReporter:
    """Shows two bars in a terminal, the whole and the running step, and plain lines elsewhere.

    Args:
        console: where to.
        quiet: show nothing.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self._progress: _Bars | None = None
        self._whole: Any = None
        self._steps: dict[str, Any] = {}
        self._started: set[str] = set()

    def note(self, text: str) -> None:
        """Show one line."""
        if not self.quiet:
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def begin(self, runs: int, missing: int, seconds: float | None) -> None:
        """Say how long it will take, and show the bars where there is a terminal."""
        done = f", {runs - missing} of them made before" if missing < runs else ""
        takes = f"; about {duration(seconds)}" if seconds is not None and missing else ""
        self.note(f"{runs} runs{done}{takes}.")
        if self.quiet or not self.console.is_terminal or not missing:
            return
        self._progress = _Bars(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=40)),
            BarColumn(bar_width=BAR, table_column=Column(min_width=BAR)),
            MofNCompleteColumn(table_column=Column(min_width=5, no_wrap=True)),
            TextColumn("{task.fields[news]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self.console,
            transient=True,
        )
        self._whole = self._progress.add_task("runs", total=runs, completed=runs - missing, news="")
        self._progress.start()

    def run_started(self, plan: RunPlan) -> None:
        """Show the bar of a run."""
        self._started.add(plan.key)
        if self._progress is not None and plan.key not in self._steps:
            self._steps[plan.key] = self._progress.add_task(_run_label(plan), total=None, news="")

    def run_step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """Move the bar of a run."""
        if self._progress is not None and plan.key in self._steps:
            news = "" if loss is None else f"loss {loss:.4f}"
            self._progress.update(self._steps[plan.key], completed=done, total=total, news=news)

    def run_ended(self, record: RunRecord, done: int, runs: int, seconds: float | None, leader: str) -> None:
        """Move the bar of the whole, or show one line."""
        left = "" if seconds is None or done >= runs else f"about {duration(seconds)} left"
        if self._progress is not None:
            step = self._steps.pop(record.key, None)
            if step is not None:
                self._progress.remove_task(step)
            self._progress.update(self._whole, completed=done, total=runs)
            self._progress.below = ", ".join(printable(part) for part in (left, leader) if part)
            self._progress.refresh()
        what = f"{record.candidate}, learning rate {rate(record.learning_rate)}, seed {record.seed}"
        if record.status != "finished":
            self.note(f"{done}/{runs} {what} {record.status}: {record.error}")
        elif self._progress is None and record.key in self._started:  # not for those that were made before
            self.note(f"{done}/{runs} {what}; {', '.join(p for p in (left, leader) if p)}")
        self._started.discard(record.key)

    def stop(self) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _run_label(plan: RunPlan) -> str:
    return escape(printable(f"{plan.candidate}, {rate(plan.settings.learning_rate)}, seed {plan.settings.seed}"))


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table of every task, size and test split, what failed, what casts doubt, and the verdicts last."""
    verdicts = []
    for cell in comparison.cells:
        if not cell.runs:
            continue
        splits = cell.test_splits or ("validation",)
        found = [compare_cell(cell, split) for split in splits]
        for statistics in found:
            console.print()
            console.print(_table(statistics, console.width))
            for note in (*_equal_compute(statistics), *statistics.notes):
                _line(console, note)
        for run in (*cell.tuning, *cell.runs):
            if run.status != "finished":
                what = f"{run.candidate}, learning rate {rate(run.learning_rate)}, seed {run.seed}"
                console.print(
                    printable(f"{run.status}: {what}: {run.error}"), highlight=False, markup=False, soft_wrap=True
                )
        checked = trust(cell, found[0])
        console.print()
        for fact in checked.facts:
            _line(console, fact)
        for doubt in checked.doubts:
            _line(console, f"Doubt: {doubt.text} Try: {doubt.remedy}")
        where = f"{cell.task}, {size(cell.train_size)}: " if len(comparison.cells) > 1 else ""
        verdicts.append(f"{where}{verdict(found[0]).sentence}")
    console.print()
    for sentence in verdicts:
        _line(console, sentence, style="bold")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=not console.is_terminal)


#: Columns of a terminal from which on a table shows more than what the verdict is made of.
WIDE = 120


def _table(statistics: CellStatistics, width: int) -> Table:
    rows = f", {statistics.test_rows:,} rows" if statistics.test_rows else ""
    title = f"{statistics.task}, {size(statistics.train_size)}: {statistics.metric} on {statistics.split}{rows}"
    table = Table(
        title=escape(printable(title)),
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("candidate", overflow="fold")  # the settings that tell two apart come last
    shown = columns(statistics, "wide" if width >= WIDE else "narrow")
    for column in shown:
        table.add_column(column.name, justify="right")
    for row in statistics.by_gain:
        texts = (label(row.candidate), *(column.text(row) for column in shown))
        table.add_row(*(escape(printable(text)) for text in texts))
    return table


def _equal_compute(statistics: CellStatistics) -> list[str]:
    """Each method against plain training that was given as much compute, where there is any."""
    lines = []
    for row in statistics.rows:
        if row.equal_compute is not None:
            pair = row.equal_compute.paired
            gain = f"{_with_interval(pair)} (95 % exact)"
            p = "" if row.equal_compute.holm_p is None else f", p (Holm) {chance(row.equal_compute.holm_p)}"
            lines.append(f"{label(row.candidate)} against {label(row.equal_compute.candidate)}: {gain}{p}")
    return lines


def _with_interval(pair: Paired) -> str:
    return f"{signed(pair.mean)} {interval_or_dash(pair.exact_interval)}"
