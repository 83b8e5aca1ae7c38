"""The plan of a comparison as tables: `steadytune compare --plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from steadytune.cli.views.console import PlainTable, show_lines
from steadytune.reporting.words import label, size
from steadytune.support.text import rate, ratio

if TYPE_CHECKING:
    from steadytune.comparison.dry_run import ComparisonPlan, PlannedCell, Timing

#: Share of the time that scoring takes, from which on a hint says how to score fewer rows.
MUCH_SCORING = 0.5


def show_plan(console: Console, plan: ComparisonPlan, timing: Timing | None = None) -> None:
    """Print a table for every task and size, and what all of them take; in time, if updates were timed."""
    for cell in plan.cells:
        console.print(_table(cell))
    for note in plan.notes:
        show_lines(console, note)
    chosen = f", {plan.choosing} of them to choose settings on validation data" if plan.choosing else ""
    show_lines(console, f"{plan.runs} runs{chosen}; {plan.made} are made already.")
    show_lines(
        console, f"Arithmetic: about {_plain(plan.arithmetic)}, {_plain(plan.arithmetic_left)} of it to be done."
    )
    if timing is not None:
        about = f"About {hours_and_minutes(timing.seconds)} on this machine ({timing.machine})"
        show_lines(console, f"{about}, {timing.scoring:.0%} of it to score rows, by a few updates that were timed.")
        if timing.scoring > MUCH_SCORING:
            show_lines(console, "--max-eval-samples N scores fewer rows.")
    show_lines(console, "Nothing was trained. The same command without --plan does it.")


def hours_and_minutes(seconds: float) -> str:
    """A length of time in hours and minutes.

    >>> hours_and_minutes(40), hours_and_minutes(2220), hours_and_minutes(9000)
    ('1 min', '37 min', '2 h 30 min')
    """
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _plain(runs: float) -> str:
    return f"{runs:.3g} plain runs" if runs < 1000 else f"{runs:,.0f} plain runs"


def _table(cell: PlannedCell) -> PlainTable:
    title = f"{cell.task}, {size(cell.train_size)}: {cell.train_rows:,} training rows, {cell.updates:,} updates a run"
    table = PlainTable(title=title, title_justify="left", header_style="bold")
    table.add_column("candidate", overflow="fold")
    for name in ("learning rate", "cost", "to choose", "to compare", "made"):
        table.add_column(name, justify="right")
    for row in cell.candidates:
        chosen = rate(row.learning_rate) if row.learning_rate is not None else "to be chosen"
        counts = (str(row.choosing), str(row.compared), str(row.made))
        table.add_row(label(row.label), chosen, ratio(row.cost), *counts)
    return table
