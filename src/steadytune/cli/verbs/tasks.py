"""The verb `tasks`: the named tasks, and where each is found."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from steadytune.cli.views.console import Screen
from steadytune.settings.fields import DATA, setting
from steadytune.settings.groups import DataFolderSettings
from steadytune.tasks.named.loading import place_of
from steadytune.tasks.named.registry import task_families, task_names, task_record
from steadytune.training.rows import DATA_FOLDER

if TYPE_CHECKING:
    from steadytune.tasks.task import Task

SUMMARY = "List the named tasks, or show some."
PANEL = "What there is"
PLACE = 3
EXAMPLE = "steadytune tasks xnli --data-dir data"


class Options(DataFolderSettings):
    """What `tasks` can be asked for."""

    names: list[str] = setting(
        [],
        "Show these records whole.",
        DATA,
        metavar="NAME",
        positional=True,
        first=1,
        repeated=True,
        completes="tasks",
    )


def run(options: Options) -> None:
    """Print all named tasks as a table, with where each is found now, or the records of the named ones."""
    console = Screen()
    names, data_dir = options.names, options.data_dir or os.environ.get(DATA_FOLDER)
    if names:
        for task in map(task_record, names):
            _show_task(console, task, place_of(task, data_dir))
        return
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for column in ("name", "head", "metric", "found in"):
        table.add_column(column, no_wrap=True)
    family = ""
    for task in sorted(map(task_record, task_names()), key=lambda task: task_families().index(task.family)):
        if task.family != family:
            table.add_row(f"[dim]{task.family}[/]")
            family = task.family
        only = " *" if task.evaluation_only else ""
        table.add_row(f"  {task.name}{only}", task.head, task.metric, place_of(task, data_dir))
    console.print(table)
    console.print(
        "* for evaluation only. found in: --data-dir, the Hub's cache, a wheel, or to be fetched from the Hub. "
        "`steadytune tasks NAME` shows the record.",
        style="dim",
    )


def _show_task(console: Console, task: Task, place: str) -> None:
    """Print what a task's record says."""
    console.print(f"[bold]{task.name}[/]  ({task.family}) {task.head}", highlight=False)
    console.print(f"  {task.description}", highlight=False, markup=False)
    labels = ", ".join(task.label_names) if task.label_names else None
    columns = [name for name in (task.text_column, task.text_pair_column, task.label_column) if name]
    facts = {
        "labels": labels,
        "columns": ", ".join(columns),
        "metrics": ", ".join((task.metric, *(name for name in task.metrics if name != task.metric))),
        "languages": ", ".join(task.languages) or None,
        "train on": f"--task {task.train_on}" if task.train_on else None,
        "on the Hub": _on_hub(task),
        "found in": place,
        "source": task.citation,
    }
    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for name, value in facts.items():
        if value is not None:
            shown.add_row(name, value)
    console.print(shown, highlight=False, markup=False)
    by_kind = [split for split in task.splits if task.language_of(split) in (None, "en")]
    shown_splits = by_kind or list(task.splits)[:3]
    for split in shown_splits:
        away = ", out of domain" if any(s.out_of_domain for s in task.sources if s.split == split) else ""
        console.print(f"  {split}: {task.splits[split]}{away}", highlight=False, markup=False)
    others = len(task.splits) - len(shown_splits)
    if others:
        console.print(f"  and {others} splits in other languages, such as {list(task.splits)[-1]}", highlight=False)


def _on_hub(task: Task) -> str | None:
    sets = dict.fromkeys(source.hub_id for source in task.sources if source.hub_id)
    return ", ".join(sets) or None
