"""The verbs that only tell: `methods`, `explain`, `tasks`."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from steadytune.cli.views.console import show_lines
from steadytune.core.authoring.cost import PLAIN_STEP
from steadytune.core.authoring.hyperparameters import allowed_values
from steadytune.core.stack.composition import conflicts, total_cost, ways_out
from steadytune.core.stack.explain import in_words
from steadytune.settings.resolve import parse_assignments, resolve_settings
from steadytune.training.rows import DATA_FOLDER

if TYPE_CHECKING:
    from torch import nn

    from steadytune.core.authoring.method import Method
    from steadytune.tasks.task import Task


def show_methods(names: list[str]) -> None:
    """Print all methods as a table, or the settings of the named ones."""
    from steadytune.methods.registry import all_methods, method_classes

    known = all_methods()
    console = Console()
    if names:
        for method in method_classes(names):
            _show_settings(console, method())
        return
    table = Table(header_style="bold")
    for column in ("name", "role", "step", "copies", "what it does"):
        number = column in ("step", "copies")
        table.add_column(column, justify="right" if number else "left", no_wrap=column != "what it does")
    for entry in known.values():
        parts = entry.methods()
        total = total_cost(parts)
        relative = f"{total.units / PLAIN_STEP.units:.2f} x"
        roles = "+".join(dict.fromkeys(m.role for m in parts))
        table.add_row(entry.name, roles, relative, str(total.weight_copies), entry.summary)
    console.print(table)
    console.print(
        "step: arithmetic of a training step, plain = 1. copies: extra copies of the trainable weights. "
        "Names combine: noisytune,smart. `steadytune methods NAME` shows settings.",
        style="dim",
    )
    for method in method_classes():
        console.print(f"{method.name}: {method.paper}", style="dim", highlight=False, markup=False)


def _show_settings(console: Console, method: Method) -> None:
    console.print(f"[bold]{method.name}[/]  ({method.role}) {method.paper}", highlight=False)
    show_lines(console, f"  {method.effect()}; {in_words(total_cost([method]))}")
    settings = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for f in fields(method):
        default = f.default if f.default not in (None, ()) else "none"
        limits = allowed_values(f.metadata)
        settings.add_row(
            f.name, str(default), f"{f.metadata['doc']}" + ("" if limits == "any value" else f"; {limits}")
        )
    console.print(settings, highlight=False, markup=False)


def show_explanation(
    names: str, model: str | None, assignments: list[str], seed: int, *, tensors: bool, memory: str
) -> None:
    """Print what a stack of methods does, or what is refused about it and what can be done."""
    settings = resolve_settings({"methods": names, "memory": memory, "set": parse_assignments(assignments)})
    from steadytune.core.stack.explain import explain
    from steadytune.methods.registry import build_methods

    methods = build_methods(settings.methods, settings.method_settings(), refuse_conflicts=False)
    loaded = None if model is None else _load(model)
    low_memory = settings.memory == "low"
    explanation = explain(methods, loaded, seed, {}, low_memory=low_memory)
    refusals = conflicts(methods)
    console = Console()
    if not refusals:
        show_lines(console, str(explanation))
    else:
        for row in explanation.methods:
            show_lines(console, str(row))
        for refusal in refusals:
            show_lines(console, f"Refused: {refusal}")
        for way in ways_out(methods):
            left_out = ", ".join(m.name for m in methods if m not in way)
            show_lines(
                console, f"\nWithout {left_out}:\n{explain(way, None, seed, {}, low_memory=low_memory).totals()}"
            )
    if tensors:
        for report in explanation.weight_reports.values():
            print(report.table())


def _load(model: str) -> nn.Module:
    from steadytune.models.load import load_model
    from steadytune.support.quiet_libraries import quiet_libraries
    from steadytune.tasks.task import Task

    quiet_libraries()
    two_classes = Task("explain", "classification", "", "", "text", None, "label", ("0", "1"), {}, "accuracy")
    loaded, _, _ = load_model(model, two_classes, new_head=True)
    return loaded


def show_tasks(names: list[str], data_dir: str | None) -> None:
    """Print all named tasks as a table, with where each is found now, or the records of the named ones."""
    from steadytune.tasks.named.loading import place_of
    from steadytune.tasks.named.registry import task_families, task_names, task_record

    console = Console()
    data_dir = data_dir or os.environ.get(DATA_FOLDER)
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
