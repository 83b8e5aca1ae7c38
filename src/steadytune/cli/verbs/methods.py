"""The verb `methods`: what there is, what each costs, and its settings."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from steadytune.cli.quick import refuse_unknown_methods
from steadytune.cli.views.console import Screen, show_lines
from steadytune.settings.fields import METHODS, Settings, setting

if TYPE_CHECKING:
    from steadytune.core.authoring.method import Method

SUMMARY = "List the methods with role, paper and cost; with names, their settings and ranges."
PANEL = "What there is"
PLACE = 1
EXAMPLE = "steadytune methods freelb"


class Options(Settings):
    """What `methods` can be asked for."""

    names: list[str] = setting(
        [],
        "Show these with their settings.",
        METHODS,
        metavar="NAME",
        positional=True,
        first=1,
        repeated=True,
        completes="single_methods",
    )


def run(options: Options) -> None:
    """Print all methods as a table, or the settings of the named ones."""
    refuse_unknown_methods(options.names)
    from steadytune.core.authoring.cost import PLAIN_STEP  # these import torch
    from steadytune.core.stack.composition import total_cost
    from steadytune.methods.registry import all_methods, method_classes

    known = all_methods()
    console = Screen()
    if options.names:
        for method in method_classes(options.names):
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
    from steadytune.core.authoring.hyperparameters import allowed_values
    from steadytune.core.stack.composition import total_cost
    from steadytune.core.stack.explain import in_words

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
