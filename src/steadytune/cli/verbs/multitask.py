"""The verb `multitask`: settings from options and file, one run over several tasks, and the scores of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from steadytune.cli.stopped import told_how_to_go_on
from steadytune.cli.views.console import PlainTable, Screen
from steadytune.models.load import find_model
from steadytune.settings.asked import FromFile
from steadytune.settings.multi_task import MultiTaskSettings
from steadytune.support.quiet_libraries import quiet_libraries
from steadytune.support.text import counted
from steadytune.training.folder import RunFolder

if TYPE_CHECKING:
    from steadytune.training.multi_task.run import MultiTaskResult


SUMMARY = "Train one encoder on several tasks, with a head for each (MT-DNN), and optionally fine-tune for each task."
PANEL = "Train"
PLACE = 3
EXAMPLE = "steadytune multitask --tasks rte,mrpc,sst2 --methods smart --fine-tune"

SETTINGS, Options = MultiTaskSettings, FromFile


def run(settings: MultiTaskSettings, options: FromFile) -> None:
    """Train as asked and print the scores of every task before and after."""
    # From the quickest check to the slowest, so that mistakes are reported before torch is imported.
    RunFolder(settings.folder).check(settings)
    find_model(settings.model)
    quiet_libraries()
    from steadytune.cli.views.console import ConsoleReporter
    from steadytune.training.multi_task.run import train_together

    console = Screen()
    reporter = ConsoleReporter(console, options.quiet)
    reporter.note(f"{settings.model} on {', '.join(settings.tasks)}, methods: {' + '.join(settings.methods)}")
    with told_how_to_go_on():
        result = train_together(settings, reporter)
    if options.quiet:
        return
    if result.was_finished:
        reporter.note("The first phase was finished before; these are its results.")
    console.print(scores_by_task(result))
    training = result.metrics["training"]
    updates = counted(training["updates"], "update")
    reporter.note(
        f"{updates} in {training['seconds_in_last_session']:.0f} s. Kept in {result.folder}: the encoder in model, "
        "each task's model in tasks."
    )


def scores_by_task(result: MultiTaskResult) -> Table:
    """A table of each task's own metric before, after, and after the second phase where there was one."""
    table = PlainTable(header_style="bold")
    for column in ("task", "split", "rows", "metric", "before → after"):
        table.add_column(column, justify="right" if column == "rows" else "left")
    if result.fine_tuned:
        table.add_column("fine-tuned", justify="right")
    for task, found in result.metrics["tasks"].items():
        metric = found["metric"]
        for split, after in found["after"].items():
            change = f"{_score(found['before'].get(split), metric)} → {_score(after, metric)}"
            cells = [task, split, f"{after['rows']:,}", metric, change]
            if result.fine_tuned:
                cells.append(_score(result.fine_tuned[task].metrics["after"].get(split), metric))
            table.add_row(*cells)
    return table


def _score(scores: Mapping[str, Any] | None, metric: str) -> str:
    value = None if scores is None else scores.get(metric)
    return "-" if value is None else f"{value:.4f}"
