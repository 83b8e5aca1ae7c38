"""The verbs that only tell: `methods`, `explain`, `tasks`."""

from __future__ import annotations

from dataclasses import fields

from rich.console import Console
from rich.table import Table

from steadytune.experiments.settings import parse_assignments, resolve_settings


def show_methods() -> None:
    """Print the methods, then every setting with its default and range."""
    from steadytune.core.method import allowed_values
    from steadytune.core.stack import Stack
    from steadytune.methods.registry import REGISTRY

    console = Console()
    table = Table(header_style="bold")
    for column in ("name", "role", "step", "what it does"):
        table.add_column(column, justify="right" if column == "step" else "left", no_wrap=column != "what it does")
    for entry in REGISTRY.values():
        parts = entry.methods()
        table.add_row(entry.name, parts[0].role, f"{Stack(parts).explain().relative_cost:.2f} x", entry.summary)
    console.print(table)
    console.print(
        "step: arithmetic of a training step, plain = 1. Names can be combined: noisytune,smart", style="dim"
    )
    singles = [
        m for entry in REGISTRY.values() if "." not in entry.name for m in entry.methods() if m.name == entry.name
    ]
    for method in singles:
        console.print(f"\n[bold]{method.name}[/]  {method.paper}", highlight=False)
        settings = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        for f in fields(method):
            default = f.default if f.default not in (None, ()) else "none"
            limits = allowed_values(f.metadata)
            settings.add_row(
                f.name, str(default), f"{f.metadata['doc']}" + ("" if limits == "any value" else f"; {limits}")
            )
        console.print(settings, highlight=False, markup=False)


def show_explanation(names: str, model: str | None, assignments: list[str], seed: int, *, tensors: bool) -> None:
    """Print what a stack of methods does."""
    settings = resolve_settings({"methods": names, "set": parse_assignments(assignments)})
    from steadytune.core.stack import Stack
    from steadytune.methods.registry import build_methods

    stack = Stack(build_methods(settings.methods, settings.method_settings()), seed)
    loaded = None
    if model is not None:
        from steadytune.cli.train import quiet_libraries
        from steadytune.experiments.models import load_model
        from steadytune.tasks.task import Task

        quiet_libraries()
        two_classes = Task("explain", "classification", "", "", "text", None, "label", ("0", "1"), {}, "accuracy")
        loaded, _, _ = load_model(model, two_classes)
    explanation = stack.explain(loaded)
    print(explanation)
    if tensors:
        for report in explanation.weight_reports.values():
            print(report.table())


def show_tasks() -> None:
    """Print the named tasks."""
    from steadytune.tasks.registry import task_names, task_record

    console = Console()
    for task in map(task_record, task_names()):
        console.print(f"[bold]{task.name}[/]  {task.head}, {task.metric}", highlight=False)
        console.print(f"  {task.description}", highlight=False, markup=False)
        for split, what in task.splits.items():
            console.print(f"  {split}: {what}", highlight=False, markup=False)
